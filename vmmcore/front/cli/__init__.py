# SPDX-License-Identifier: Apache-2.0
"""The command line. Commands are imported when they are called; plugins only by those that need them."""

from __future__ import annotations

import sys
import time

#: when this process began to be ours, for ``vmm run --timing`` (CLOCK_MONOTONIC, ns)
STARTED = time.monotonic_ns()

import click  # noqa: E402

from ...errors import ExitCode, VmmError  # noqa: E402

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
            full = f"{__name__}.{module}"
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


def main(args: list[str] | None = None) -> int:
    """The `vmm` command. Its exit status (:class:`vmmcore.errors.ExitCode`)."""
    args = sys.argv[1:] if args is None else args
    try:
        result = group.main(args, prog_name="vmm", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.OK
    except VmmError as error:
        return _fail(error, str(error), error.exit_code, args)
    except click.ClickException as error:
        if (
            isinstance(error, click.UsageError) and type(error).__name__ == "NoArgsIsHelpError"
        ):  # click >= 8.2
            click.echo(error.format_message(), err=True)
            return ExitCode.USAGE
        return _fail(error, error.format_message(), ExitCode.USAGE, args)
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        sys.stdout = None  # nobody reads it: do not flush at exit
        return ExitCode.FAILURE
    except Exception as error:
        from ..plugins import cause

        return _fail(error, f"internal error: {cause(error)}; -vv shows more", ExitCode.FAILURE, args)


def _fail(error: BaseException, message: str, code: int, args: list[str]) -> int:
    line = " ".join(message.split())
    print(f"vmm: error: {line}", file=sys.stderr)
    flags = [
        word.lstrip("-")
        for word in args
        if word == "--verbose" or (word.startswith("-v") and not word.strip("-v"))
    ]
    if sum(flag.count("v") if flag != "verbose" else 1 for flag in flags) >= 2:
        import traceback

        traceback.print_exception(error)
    return code
