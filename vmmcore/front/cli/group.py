# SPDX-License-Identifier: Apache-2.0
"""The top command for click: commands are imported when they are called, plugins when they are needed."""

from __future__ import annotations

import sys

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: name -> (module below this package, attribute, help line)
COMMANDS = {
    "check": ("check", "command", "Can this host run VMs?"),
    "completion": ("completion", "command", "Print shell completion for bash, zsh or fish."),
    "plan": ("plan", "make_command", "Show what `run` would build."),
    "plugins": ("plugins", "command", "Installed plugins; a template for new ones."),
    "run": ("run", "make_command", "Run a VM."),
}


class LazyGroup(click.Group):
    """The top command: knows names and help lines; imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from ..discovery import Discovery

        return sorted({*COMMANDS, *Discovery().group("vmmcore.commands")})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module, attribute, _ = COMMANDS[name]
            full = f"vmmcore.front.cli.{module}"
            __import__(full)
            found = getattr(sys.modules[full], attribute)
            command: click.Command = found if isinstance(found, click.Command) else found()
            return command
        return _plugin_command(name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from ..discovery import Discovery

        rows = [(name, line) for name, (_, _, line) in COMMANDS.items()]
        for name, entries in Discovery().group("vmmcore.commands").items():
            if name not in COMMANDS:
                rows.append((name, f"(plugin {' and '.join(entry.origin for entry in entries)})"))
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None:
            from ..options import nearest

            close = nearest(args[0], self.list_commands(ctx))
            raise click.UsageError(
                f"there is no command '{args[0]}'"
                + (f"; did you mean {close}?" if close else "; see `vmm --help`")
            )
        return super().resolve_command(ctx, args)


def _plugin_command(name: str) -> click.Command | None:
    from ...errors import PluginError
    from ..discovery import Discovery
    from ..plugins import cause

    entries = Discovery().group("vmmcore.commands").get(name)
    if not entries:
        return None
    if len(entries) > 1:
        claims = " and ".join(entry.origin for entry in entries)
        raise PluginError(f"command '{name}' is claimed by both {claims}; uninstall one of them")
    entry = entries[0]
    try:
        __import__(entry.module)
        found: Any = sys.modules[entry.module]
        for part in (entry.attribute or "command").split("."):
            found = getattr(found, part)
    except Exception as error:
        raise PluginError(f"command {name} ({entry.origin}) cannot be imported: {cause(error)}") from error
    if not isinstance(found, click.Command):
        raise PluginError(
            f"command {name} ({entry.origin}): {entry.module}:{entry.attribute} is no click command"
        )
    return found


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from ... import __version__

        click.echo(f"vmm {__version__}")
        ctx.exit()


@click.command("vmm", cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", count=True, help="Say more; -vv shows where an error comes from.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
@click.pass_context
def group(ctx: click.Context, verbose: int) -> None:
    """Run virtual machines with KVM. Devices, boot methods and architectures are plugins."""
    ctx.obj = verbose
