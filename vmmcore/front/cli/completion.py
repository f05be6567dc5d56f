# SPDX-License-Identifier: Apache-2.0
"""``vmm completion``: shell completion, by click's own mechanism."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print shell completion for bash, zsh or fish.

    \b
    bash:  vmm completion bash > ~/.local/share/bash-completion/completions/vmm
    zsh:   vmm completion zsh > a file _vmm in a folder of $fpath
    fish:  vmm completion fish > ~/.config/fish/completions/vmm.fish
    """
    from .group import group

    kind = get_completion_class(shell)
    assert kind is not None
    # not .source(): for bash that would run bash to ask for its version
    completion = kind(group, {}, "vmm", "_VMM_COMPLETE")
    click.echo(completion.source_template % completion.source_vars())
    return 0
