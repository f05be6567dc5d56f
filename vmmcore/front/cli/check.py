# SPDX-License-Identifier: Apache-2.0
"""``vmm check``: can this host run VMs?"""

from __future__ import annotations

import click

from ...errors import ExitCode
from ..check import probe_kvm


@click.command(
    "check", help="Can this host run VMs, and if not, why and what to do? Exit status 0: yes, 1: no."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(as_json: bool) -> int:
    status = probe_kvm()
    if as_json:
        import json

        click.echo(json.dumps(status.to_dict()))
    else:
        click.echo(f"kvm: {status.state}: {status.reason}")
        if status.mend:
            click.echo(f"  {status.mend}")
    return ExitCode.OK if status.usable else ExitCode.FAILURE
