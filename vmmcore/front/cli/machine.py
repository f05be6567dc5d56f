# SPDX-License-Identifier: Apache-2.0
"""What ``vmm run`` and ``vmm plan`` read from their options; no click here (see the package)."""

from __future__ import annotations

import os
import sys

from ... import plan as planfile
from ...errors import UserError, VmmError
from ..config import Cpus, DeviceConfig, Memory, VmConfig, from_values, read_file
from ..devices import PLUGIN
from ..discovery import Discovery

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..planning import PlannedVm

#: device flags: at least one of these means the user has thought of a console
CONSOLES = ("serial", "console", "debug_console", "debug-console")

#: flags, name in `given`, metavar (None: a switch), help line
OPTIONS: list[tuple[tuple[str, ...], str, str | None, str]] = [
    (("--kernel",), "kernel", "FILE", "Kernel to boot (bzImage, vmlinux, … as boot methods know)."),
    (("--initramfs",), "initramfs", "FILE", "Initial RAM disk."),
    (("--cmdline",), "cmdline", "TEXT", "Kernel command line (default: words that plugins contribute)."),
    (("--firmware",), "firmware", "FILE,…", "Firmware to boot instead of a kernel: path=, vars=, template=."),
    (("--cpus",), "cpus", "boot=N,…", "vCPUs: boot=, max=, topology=, affinity=, features=, max_phys_bits=."),
    (
        ("--memory",),
        "memory",
        "size=SIZE,…",
        "RAM: size=, shared=, hugepages=, hugepage_size=, prefault=, mergeable=, thp=, hotplug_method=, hotplug_size=, "
        "hotplugged_size=.",
    ),
    (("--platform",), "platform", "KEY=VALUE,…", "num_pci_segments=, serial_number=, uuid=, oem_strings=."),
    (("--no-default-plugins",), "no_default_plugins", None, "Use no plugin that --plugin does not name."),
    (("--config",), "config", "FILE", "TOML or JSON file with the same keys; flags override it."),
    (("--name", "--id"), "name", "NAME", "Name of the VM."),
]
RUN_OPTIONS: list[tuple[tuple[str, ...], str, str | None, str]] = [
    (("--plan",), "plan", "FILE", "Run a plan that `vmm plan --json` wrote (- for stdin)."),
    (
        ("--api-socket",),
        "api_socket",
        "PATH",
        "Serve the REST API on a new Unix socket (or fd=N); without a kernel or firmware, wait for vm.create.",
    ),
    (("--timing",), "timing", None, "Print how long each phase of the start took."),
]
#: flags of parts of the machine that may be given several times → (key of the configuration, help line)
PARTS = {
    "memory-zone": ("memory_zones", "A piece of the RAM: id=, size=, file=, host_numa_node=, hotplug_size=, …."),
    "numa": ("numa", "A NUMA node: guest_numa_id=, cpus=, distances=, memory_zones=, pci_segments=."),
    "pci-segment": ("pci_segments", "Share of a PCI segment: pci_segment=, mmio32_aperture_weight=, mmio64_…."),
}
PLUGIN_HELP = "Use a plugin (or ./FILE.py); with options or without a flag of its own it makes a device."


def device_flags() -> list[str]:
    """Keys of the flags that installed plugins declare."""
    taken = {flag for flags, *_ in [*OPTIONS, *RUN_OPTIONS] for flag in flags} | {
        "--plugin",
        "--json",
        "--help",
        *("--" + key for key in PARTS),
    }
    return [key for key in Discovery().group("vmmcore.flags") if "--" + key not in taken]


def spread(args: list[str], flags: set[str]) -> list[str]:
    """``--disk A B`` is ``--disk A --disk B``, as the anchor's users write it; `flags` are those of devices."""
    words: list[str] = []
    flag, values = "", 0
    for word in args:
        if word.startswith("-"):
            name, equals, _ = word.partition("=")
            flag, values = (name, 1 if equals else 0) if name in flags else ("", 0)
        elif flag:
            if values:
                words.append(flag)
            values += 1
        words.append(word)
    return words


def read_plainly(args: list[str]) -> tuple[dict[str, Any], list[tuple[str, str]]] | None:
    """The options of ``vmm run`` and its devices in order; None: let click look at it."""
    declared = {flag: (key, metavar) for flags, key, metavar, _ in [*OPTIONS, *RUN_OPTIONS] for flag in flags}
    devices = {"--" + key: key for key in ("plugin", *PARTS, *device_flags())}
    given: dict[str, Any] = {key: False if metavar is None else None for key, metavar in declared.values()}
    wanted: list[tuple[str, str]] = []
    rest = iter(spread(args, set(devices)))
    for word in rest:
        flag, equals, value = word.partition("=")
        key, metavar = declared.get(flag, ("", ""))
        if key and metavar is None and not equals:
            given[key] = True
            continue
        if not key and flag not in devices:
            return None
        if not equals:
            following = next(rest, None)
            if following is None or (not key and following[:1] == "-"):
                return None  # a device without options, or an error
            value = following
        elif metavar is None:
            return None
        if key:
            given[key] = value
        else:
            wanted.append((devices[flag], value))
    return given, wanted


def config_from(given: dict[str, Any], wanted: list[tuple[str, str]]) -> VmConfig:
    """The configuration that flags and ``--config`` describe; `wanted`: its devices. Raises UserError."""
    values: dict[str, Any] = {}
    raw: dict[str, Any] = {}
    if given["config"] is not None:
        raw = read_file(given["config"])
        values = from_values(raw, os.fspath(given["config"]))
    for key in ("kernel", "initramfs", "cmdline", "firmware"):
        if given[key] is not None:
            values[key] = given[key]
    for flag, (key, _) in PARTS.items():
        texts = [text for name, text in wanted if name == flag]
        if texts:
            values[key] = texts
    wanted = [(key, text) for key, text in wanted if key not in PARTS]
    if given["platform"] is not None:
        values["platform"] = given["platform"]
    for key, cls in (("cpus", Cpus), ("memory", Memory)):
        if given[key] is not None:  # key by key over the file's
            flags = cls.pairs(given[key], "--" + key)
            base = raw.get(key)
            if isinstance(base, str):
                base = cls.pairs(base, f"{given['config']}: {key}")
            elif isinstance(base, int):
                base = {cls.positional: base}
            merged = {**(base or {}), **flags}
            of_zones = key == "memory" and values.get("memory_zones")  # its size is checked with them
            values[key] = merged if of_zones else cls.from_dict(merged, "--" + key)
    if given["name"] is not None:
        values["id"] = given["name"]
    if given["no_default_plugins"]:
        values["default_plugins"] = False
    plugins = [text for key, text in wanted if key == "plugin"]
    values["plugins"] = [*values.get("plugins", []), *plugins]
    flags_given = {key for key, _ in wanted}
    devices = [device for device in values.get("devices", []) if device.type not in flags_given]
    devices += [DeviceConfig(PLUGIN if key == "plugin" else key, text) for key, text in wanted]
    values["timing"] = bool(given.get("timing")) or values.get("timing", False)
    types = {device.type for device in devices}
    if not types.intersection(CONSOLES) and _usable("serial", values):
        devices.insert(0, DeviceConfig("serial", "tty"))
    if values["timing"] and "debugcon" not in types and _usable("debugcon", values):
        devices.append(DeviceConfig("debugcon", "null"))  # it notes when the guest's init writes its stamps
    values["devices"] = devices
    return VmConfig(**values)


def _usable(flag: str, values: dict[str, Any]) -> bool:
    """Whether a plugin that the configuration allows has this flag."""
    from ..plugins import Plugins

    plugins = Plugins(
        (text.partition(",")[0] for text in values["plugins"]),
        default_plugins=values.get("default_plugins", True),
    )
    return plugins.offers(flag)


def run(given: dict[str, Any], wanted: list[tuple[str, str]]) -> int:
    """``vmm run``: become the runner, or stay beside it for plugins that observe the VM."""
    from ..launch import exec_runner
    from . import STARTED

    if given["api_socket"] is not None:
        from .served import run_served

        return run_served(given, wanted)
    with _planned(given, wanted) as planned:
        planned.plan["t0"] = STARTED
        planned.plan["timing"] = planned.plan["timing"] or given["timing"]
        if not planned.observed:
            exec_runner(planned)
        from ..vm import run_observed

        return run_observed(planned)


def _planned(given: dict[str, Any], wanted: list[tuple[str, str]]) -> PlannedVm:
    from ..planning import PlannedVm, compile_plan, plugins_for

    if given["plan"] is None:
        return compile_plan(config_from(given, wanted))
    extra = [
        key
        for key in ("kernel", "initramfs", "cmdline", "firmware", "cpus", "memory", "config", "name")
        if given[key] is not None
    ]
    if extra or wanted:
        name = extra[0] if extra else wanted[0][0]
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
