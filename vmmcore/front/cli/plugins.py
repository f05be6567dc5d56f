# SPDX-License-Identifier: Apache-2.0
"""``vmm plugins``: what is installed, what one plugin offers, and a template for a new one."""

from __future__ import annotations

import sys

import click

from ...errors import ExitCode, PluginError, VmmError
from ..discovery import GROUPS, Discovery
from ..plugins import Plugins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.group("plugins", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Installed plugins; a template for new ones."""


def _row(discovery: Discovery, name: str) -> dict[str, Any]:
    entries = discovery.entries(name)
    dists = sorted({entry.origin for entry in entries})
    state = "disabled" if discovery.disabled(name) else "ok"
    conflicts = [e for group in GROUPS for e in discovery.group(group).values() if len(e) > 1]
    if any({discovery.plugin_name(entry) for entry in group} & {name} for group in conflicts):
        state = "conflict"
    declared = [entry for entry in entries if entry.group != "vmmcore"]
    if state == "ok" and declared and all(discovery.inert(entry) for entry in declared):
        state = "inert"
    provides = []
    for entry in entries:
        kind = {
            "vmmcore.flags": "--",
            "vmmcore.arch": "arch ",
            "vmmcore.boot": "boot ",
            "vmmcore.api": "api ",
            "vmmcore.commands": "vmm ",
        }
        if entry.group in kind:
            inert = discovery.inert(entry)
            shown = f"{entry.name} (not on {discovery.machine})" if inert else entry.name.partition("@")[0]
            provides.append(kind[entry.group] + shown)
    return {
        "name": name,
        "dist": " and ".join(sorted({entry.dist for entry in entries})),
        "version": " and ".join(sorted({entry.version for entry in entries})),
        "state": state,
        "dists": dists,
        "provides": sorted(set(provides)),
    }


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_plugins(as_json: bool) -> int:
    """List installed plugins; imports none of them."""
    discovery = Discovery()
    rows = [_row(discovery, name) for name in discovery.names()]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        where = " and ".join(row["dists"])
        line = f"{row['name']:<{width}}  {row['state']:<8}  {where}  {', '.join(row['provides'])}"
        click.echo(line.rstrip())
    if not rows:
        click.echo("no plugins are installed", err=True)
    return 0


@command.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with the schemas of its options.")
def info(name: str, as_json: bool) -> int:
    """Show what one plugin offers: its device types and their options."""
    plugins = Plugins([name])
    data = _row(plugins.discovery, name)
    problem = ""
    try:
        plugin = plugins.load_named(name)
    except PluginError as error:
        if not data["dists"]:
            raise
        problem = str(error)
        data |= {"state": data["state"] if data["state"] != "ok" else "broken", "problem": problem}
    else:
        module = plugin.module
        implemented = [
            hook for hook in dir(module) if plugins.manager.parse_hookimpl_opts(module, hook) is not None
        ]
        data |= {
            "module": module.__name__,
            "summary": " ".join((module.__doc__ or "").strip().partition("\n\n")[0].split()),
            "api": list(getattr(module, "API", ())),
            "hooks": implemented,
            "devices": [
                {
                    "type": kind.key,
                    "bus": kind.bus,
                    "many": kind.many,
                    "doc": kind.doc,
                    "class": kind.factory,
                    "options": kind.options.schema()
                    if kind.options
                    else {"type": "object", "properties": {}},
                }
                for kind in plugin.device_types
            ],
        }
    if as_json:
        import json

        click.echo(json.dumps(data, indent=2))
    else:
        _print_info(data, plugins)
    if problem:
        print(f"vmm: error: {problem}", file=sys.stderr)
        return ExitCode.FAILURE
    return 0


def _print_info(data: dict[str, Any], plugins: Plugins) -> None:
    click.echo(f"{data['name']}: {data['state']} ({' and '.join(data['dists'])})")
    if data.get("summary"):
        click.echo(f"  {data['summary']}")
    if data["provides"]:
        click.echo(f"  provides {', '.join(data['provides'])}")
    for plugin in plugins.loaded:
        for kind in plugin.device_types:
            click.echo(f"  device type {kind.key} ({kind.bus}): {kind.doc}".rstrip(": "))
            for option in kind.options._options.values() if kind.options else ():
                default = "" if option.default is None else f" (default {option.default})"
                if type(option.default).__name__ == "_Required":
                    default = " (required)"
                click.echo(f"    {option.key}={option.metavar}  {option.doc}{default}")


@command.command("new")
@click.argument("name")
@click.option(
    "--dir", "folder", metavar="FOLDER", default=None, help="Where to write it (default: ./vmm-NAME)."
)
@click.option("--native", is_flag=True, help="With a data plane in C.")
def new(name: str, folder: str | None, native: bool) -> int:
    """Write a complete package for a new plugin, a virtio device, whose tests pass at once."""
    from ..template import write_plugin

    try:
        path = write_plugin(name, folder, native)
    except OSError as error:
        raise VmmError(f"{error.filename}: {error.strerror}") from None
    click.echo(f"{path}: a plugin with a small virtio device{' in C' if native else ''}; next:")
    click.echo(f"  pip install -e '{path}[test]' && pytest {path}")
    click.echo(f"  vmm run --kernel vmlinuz --{name.replace('-', '_')} limit=100")
    return 0
