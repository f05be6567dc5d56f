# SPDX-License-Identifier: Apache-2.0
"""The command line.

`vmm run` with options that need no explanation does not import click, which would take a
third of the time until the guest runs; everything else, errors included, is click's.
"""

from __future__ import annotations

import sys
import time

#: when this process began to be ours, for ``vmm run --timing`` (CLOCK_MONOTONIC, ns)
STARTED = time.monotonic_ns()

from ...errors import ExitCode, VmmError  # noqa: E402


def main(args: list[str] | None = None) -> int:
    """The `vmm` command. Its exit status (:class:`vmmcore.errors.ExitCode`)."""
    args = sys.argv[1:] if args is None else args
    try:
        if args[:1] == ["run"]:
            from .machine import read_plainly, run

            plain = read_plainly(args[1:])
            if plain is not None:
                return run(*plain)
        return _click(args)
    except VmmError as error:
        return _fail(error, str(error), error.exit_code, args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stdout = None  # nobody reads it: do not flush at exit
        return ExitCode.FAILURE
    except Exception as error:
        from ..plugins import cause

        return _fail(error, f"internal error: {cause(error)}; -vv shows more", ExitCode.FAILURE, args)


def _click(args: list[str]) -> int:
    import click

    from .group import group

    try:
        result = group.main(args, prog_name="vmm", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.OK
    except click.Abort:
        return 130
    except click.ClickException as error:
        if (
            isinstance(error, click.UsageError) and type(error).__name__ == "NoArgsIsHelpError"
        ):  # click >= 8.2
            click.echo(error.format_message(), err=True)
            return ExitCode.USAGE
        return _fail(error, error.format_message(), ExitCode.USAGE, args)


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
