# SPDX-License-Identifier: Apache-2.0
"""``vmm run``, and the options that ``vmm plan`` shares with it."""

from __future__ import annotations

import os
import sys

import click

from ... import plan as planfile
from ...errors import UserError, VmmError
from ..config import DeviceConfig, VmConfig, read_file
from ..discovery import Discovery

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..planning import PlannedVm

#: device flags: at least one of these means the user has thought of a console
CONSOLES = ("serial", "console", "debug_console", "debug-console")


class MachineCommand(click.Command):
    """A command that takes a machine's description; notes the order in which devices were asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
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
                wanted.append((name[5:], values[name][taken.get(name, 0)]))
                taken[name] = taken.get(name, 0) + 1
        ctx.meta["vmm.devices"] = wanted
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = [
            parameter
            for parameter in self.params
            if parameter.name == "flag_plugin" or not (parameter.name or "").startswith("flag_")
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


def machine_params() -> list[click.Parameter]:
    """The options that describe a machine; a flag for each device type that an installed plugin declares."""
    option = click.Option
    params: list[click.Parameter] = [
        option(
            ["--kernel"], metavar="FILE", help="Kernel to boot (bzImage, vmlinux, … as boot methods know)."
        ),
        option(["--initramfs"], metavar="FILE", help="Initial RAM disk."),
        option(
            ["--cmdline"],
            metavar="TEXT",
            help="Kernel command line (default: words that plugins contribute).",
        ),
        option(["--firmware"], metavar="FILE", help="Firmware to boot instead of a kernel."),
        option(
            ["--cpus"],
            metavar="boot=N,…",
            help="vCPUs: boot=, max=, topology=, affinity=, features=, max_phys_bits=.",
        ),
        option(
            ["--memory"],
            metavar="size=SIZE,…",
            help="RAM: size=, shared=, hugepages=, hugepage_size=, prefault=, mergeable=, thp=.",
        ),
        option(
            ["--plugin", "flag_plugin"],
            metavar="NAME[,KEY=VALUE…]",
            multiple=True,
            help="Use a plugin (or ./FILE.py); with options or without a flag of its own it makes a device.",
        ),
        option(["--no-default-plugins"], is_flag=True, help="Use no plugin that --plugin does not name."),
        option(["--config"], metavar="FILE", help="TOML or JSON file with the same keys; flags override it."),
        option(["--name", "--id", "name"], metavar="NAME", help="Name of the VM."),
    ]
    taken = {name for parameter in params for name in parameter.opts}
    for key in Discovery().group("vmmcore.flags"):
        if "--" + key not in taken:
            params.append(option(["--" + key, "flag_" + key], multiple=True))
    return params


def config_from(ctx: click.Context, given: dict[str, Any]) -> VmConfig:
    """The configuration that flags and ``--config`` describe. Raises UserError."""
    from ..config import Cpus, Memory, from_values

    values: dict[str, Any] = {}
    raw: dict[str, Any] = {}
    if given["config"] is not None:
        raw = read_file(given["config"])
        values = from_values(raw, os.fspath(given["config"]))
    for key in ("kernel", "initramfs", "cmdline", "firmware"):
        if given[key] is not None:
            values[key] = given[key]
    for key, cls in (("cpus", Cpus), ("memory", Memory)):
        if given[key] is not None:  # key by key over the file's
            flags = cls.pairs(given[key], "--" + key)
            base = raw.get(key)
            if isinstance(base, str):
                base = cls.pairs(base, f"{given['config']}: {key}")
            elif isinstance(base, int):
                base = {cls.positional: base}
            values[key] = cls.from_dict({**(base or {}), **flags}, "--" + key)
    if given["name"] is not None:
        values["id"] = given["name"]
    if given["no_default_plugins"]:
        values["default_plugins"] = False
    wanted: list[tuple[str, str]] = ctx.meta["vmm.devices"]
    plugins = [text for key, text in wanted if key == "plugin"]
    values["plugins"] = [*values.get("plugins", []), *plugins]
    flags_given = {key for key, _ in wanted}
    devices = [device for device in values.get("devices", []) if device.type not in flags_given]
    devices += [DeviceConfig(key, text) for key, text in wanted if key != "plugin"]
    if not {device.type for device in devices}.intersection(CONSOLES) and _serial_usable(values):
        devices.insert(0, DeviceConfig("serial", "tty"))
    values["devices"] = devices
    values["timing"] = bool(given.get("timing")) or values.get("timing", False)
    return VmConfig(**values)


def _serial_usable(values: dict[str, Any]) -> bool:
    """Whether a plugin that the configuration allows has the flag --serial."""
    from ..plugins import Plugins

    plugins = Plugins(
        (text.partition(",")[0] for text in values["plugins"]),
        default_plugins=values.get("default_plugins", True),
    )
    entries = plugins.discovery.group("vmmcore.flags").get("serial", ())
    return any(plugins.usable(plugins.discovery.plugin_name(entry)) for entry in entries)


def make_command() -> click.Command:
    params = machine_params()
    params.append(
        click.Option(
            ["--plan"], metavar="FILE", help="Run a plan that `vmm plan --json` wrote (- for stdin)."
        )
    )
    params.append(
        click.Option(["--timing"], is_flag=True, help="Print how long each phase of the start took.")
    )
    return MachineCommand(
        "run",
        params=params,
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
    from ..launch import exec_runner

    with _planned(ctx, given) as planned:
        from . import STARTED

        planned.plan["t0"] = STARTED
        if planned.plan["timing"] is False and given["timing"]:
            planned.plan["timing"] = True
        if not planned.observed:
            exec_runner(planned)
        from ..vm import run_observed

        return run_observed(planned)


def _planned(ctx: click.Context, given: dict[str, Any]) -> PlannedVm:
    from ..planning import PlannedVm, compile_plan, plugins_for

    if given["plan"] is None:
        return compile_plan(config_from(ctx, given))
    extra = [
        key
        for key in ("kernel", "initramfs", "cmdline", "firmware", "cpus", "memory", "config", "name")
        if given[key] is not None
    ]
    if extra or ctx.meta["vmm.devices"]:
        name = extra[0] if extra else ctx.meta["vmm.devices"][0][0]
        raise UserError(
            "--plan", f"--{name} cannot change a finished plan", "make another with `vmm plan --json`"
        )
    try:
        if given["plan"] == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(given["plan"], "rb") as file:
                data = file.read()
    except OSError as error:
        raise UserError(
            "--plan", f"{given['plan']}: {error.strerror}", "name a file that `vmm plan --json` wrote"
        ) from None
    try:
        plan = planfile.from_json(data)
    except VmmError as error:
        raise UserError("--plan", f"{given['plan']}: {error}") from None
    fds = planfile.reopen(plan, lambda path: print(f"vmm: pty: {path}", file=sys.stderr))
    plan["control"] = -1
    for key, default in (("start", True), ("timing", False), ("parent_death", False)):
        plan.setdefault(key, default)
    return PlannedVm(plan, fds, plugins_for(VmConfig()))
