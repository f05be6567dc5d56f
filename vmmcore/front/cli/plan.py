# SPDX-License-Identifier: Apache-2.0
"""``vmm plan``: what ``vmm run`` would build, without building it."""

from __future__ import annotations

import click

from ... import plan as planfile
from ..config import human_size
from .machine import config_from
from .run import MachineCommand, machine_params

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def make_command() -> click.Command:
    params = machine_params()
    params.append(
        click.Option(["--json", "as_json"], is_flag=True, help="The whole plan, for `vmm run --plan`.")
    )
    return MachineCommand(
        "plan",
        params=params,
        callback=_plan,
        short_help="Show what `run` would build.",
        help="Show the machine that `vmm run` would build from the same options.",
    )


@click.pass_context
def _plan(ctx: click.Context, /, as_json: bool, **given: Any) -> int:
    from ..planning import compile_plan

    with compile_plan(config_from(given, ctx.meta["vmm.devices"]), dry_run=True) as planned:
        plan = planned.plan
        if as_json:
            import json

            click.echo(json.dumps(json.loads(planfile.to_json(plan)), indent=2))
            return 0
    cpus, memory = plan["cpus"], plan["memory"]
    click.echo(f"{plan['id']}: {plan['arch']['name']}, {cpus['boot']} of {cpus['max']} vCPUs")
    for gpa, size in memory["regions"]:
        click.echo(f"  {gpa:#018x}  RAM     {human_size(size)}")
    hotplug = memory["hotplug"]
    if hotplug is not None:
        click.echo(f"  {hotplug['base']:#018x}  room    {human_size(hotplug['size'])} ({hotplug['method']})")
    for load in plan["load"]:
        source = plan["files"][load["file"]]["path"] if "file" in load else "(made by the front)"
        size = load["size"] if "file" in load else len(load["data"])
        click.echo(f"  {load['gpa']:#018x}  load    {size} bytes  {source}")
    for device in plan["devices"]:
        place = (
            f"{device['segment']:04x}:00:{device['slot']:02x}.0" if device["bus"] == "pci" else device["bus"]
        )
        where = device.get("module") or device.get("file")
        resources = " ".join(f"{key}={value}" for key, value in device["resources"].items())
        click.echo(f"  {place:<18}  device  {device['id']} ({where}:{device['class']}) {resources}".rstrip())
    click.echo(f"  command line: {plan['cmdline']}")
    return 0
