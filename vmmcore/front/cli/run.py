# SPDX-License-Identifier: Apache-2.0
"""``vmm run`` for click, and the options that ``vmm plan`` shares with it."""

from __future__ import annotations

import click

from ...errors import VmmError
from .machine import OPTIONS, PARTS, PLUGIN_HELP, RUN_OPTIONS, device_flags, run, spread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class MachineCommand(click.Command):
    """A command that takes a machine's description; notes the order in which devices were asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = spread(args, {flag for p in self.params if (p.name or "").startswith("flag_") for flag in p.opts})
        # click groups values by option; guests see devices in the order of the command line
        try:
            values, _, order = self.make_parser(ctx).parse_args(list(args))
        except click.ClickException:
            values, order = {}, []  # reported below, in click's own words
        taken: dict[str, int] = {}
        wanted: list[tuple[str, str]] = []
        for parameter in order:
            name = parameter.name or ""
            if name.startswith("flag_") and name in values:
                text = values[name][taken.get(name, 0)]
                wanted.append(
                    (parameter.opts[0][2:], text if isinstance(text, str) else "")
                )  # no str: a flag without a value
                taken[name] = taken.get(name, 0) + 1
        ctx.meta["vmm.devices"] = wanted
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = [
            parameter
            for parameter in self.params
            if parameter.name in SHOWN or not (parameter.name or "").startswith("flag_")
        ]
        rows = [record for parameter in shown if (record := parameter.get_help_record(ctx)) is not None]
        if (help_option := self.get_help_option(ctx)) is not None and (
            record := help_option.get_help_record(ctx)
        ):
            rows.append(record)
        with formatter.section("Options"):
            formatter.write_dl(rows)
        devices = _device_help()
        if devices:
            with formatter.section("Devices (each may be given several times)"):
                formatter.write_dl(devices)


#: flags that may be given several times and are no devices
SHOWN = {"flag_plugin", *("flag_" + key.replace("-", "_") for key in PARTS)}


def _device_help() -> list[tuple[str, str]]:
    """Flags of plugins with their options; a plugin that cannot be loaded is noted."""
    from ..plugins import Plugins

    plugins = Plugins(warn=lambda line: None)
    rows = []
    for key in plugins.discovery.group("vmmcore.flags"):
        try:
            _, kind = plugins.device_type(key, "--" + key)
        except VmmError as error:
            rows.append((f"--{key} …", f"(unusable: {error})"))
            continue
        declared = kind.options._options.values() if kind.options else ()
        syntax = ",".join(f"{option.key}={option.metavar}" for option in declared)
        rows.append((f"--{key} {syntax}".rstrip(), kind.doc))
    return rows


def machine_params(*more: tuple[tuple[str, ...], str, str | None, str]) -> list[click.Parameter]:
    """The options that describe a machine; a flag for each device type that an installed plugin declares."""
    params: list[click.Parameter] = [
        click.Option([*flags, key], metavar=metavar, is_flag=True if metavar is None else None, help=text)
        for flags, key, metavar, text in [*OPTIONS, *more]
    ]
    params.append(
        click.Option(
            ["--plugin", "flag_plugin"], metavar="NAME[,KEY=VALUE…]", multiple=True, help=PLUGIN_HELP
        )
    )
    params += [
        click.Option(["--" + key, "flag_" + key.replace("-", "_")], metavar="KEY=VALUE,…", multiple=True, help=text)
        for key, (_, text) in PARTS.items()
    ]
    params += [
        click.Option(["--" + key, "flag_" + key.replace("-", "_")], multiple=True, is_flag=False, flag_value="")
        for key in device_flags()
    ]
    return params


def make_command() -> click.Command:
    return MachineCommand(
        "run",
        params=machine_params(*RUN_OPTIONS),
        callback=_run,
        short_help="Run a VM.",
        help=(
            "Run a VM until it ends; its exit status tells how (0: it powered off).\n\n"
            "Without any --serial or --console, the guest's first serial port is this terminal. "
            "Sizes take K, M, G, T; switches take on and off."
        ),
    )


@click.pass_context
def _run(ctx: click.Context, /, **given: Any) -> int:
    return run(given, ctx.meta["vmm.devices"])
