# SPDX-License-Identifier: Apache-2.0
"""Compiling a configuration into a plan (:mod:`vmmcore.plan`) and the open files it needs.

Order: checks, the architecture's layout, devices in the order they were asked for, PCI
slots, the boot method, the command line, the architecture's tables and registers, and a
last look for plugins. An error anywhere closes every file that was opened.
"""

from __future__ import annotations

import os
import sys

from .. import plan as planfile
from ..errors import PluginError, UserError, VmmError
from .config import DeviceConfig, VmConfig, check_id, human_size, unknown_config_key
from .options import Option, Options, split_or_fail, unknown_key, unquote
from .plugins import Plugin, Plugins, cause, is_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..hooks import Arch, BootClaim, DeviceType

#: bytes of a kernel that boot methods are shown
HEAD_SIZE = 64 << 10


class Layout:
    """Where an architecture puts things. All addresses are guest-physical, all sizes bytes.

    ram           [(address, size), …], ascending
    segments      PCI segments: [{"id", "ecam": address, "mmio32": [base, size], "mmio64": …, "pio": …}, …]
    gsis          interrupts for platform devices, handed out in this order
    pci_gsis      interrupts of INTx: slot n has ``pci_gsis[n % len(pci_gsis)]``
    load_min      lowest address for a kernel
    low_ram_end   end of the RAM below the 32-bit hole
    extra         the architecture's own
    """

    __slots__ = ("extra", "gsis", "load_min", "low_ram_end", "pci_gsis", "ram", "segments")

    def __init__(self, *, ram: list[tuple[int, int]], segments: list[dict[str, Any]] | None = None,
                 gsis: list[int] | None = None, pci_gsis: list[int] | None = None, load_min: int = 0x100000,
                 low_ram_end: int | None = None, extra: dict[str, Any] | None = None) -> None:
        self.ram, self.segments = ram, segments or []
        self.gsis, self.pci_gsis = list(gsis or []), list(pci_gsis or [])
        self.load_min = load_min
        self.low_ram_end = ram[0][0] + ram[0][1] if low_ram_end is None else low_ram_end
        self.extra = extra or {}


class DeviceOptions(Options):
    """What every device takes beside its own options."""

    id: Option[str | None] = Option(str, None, "unique name of the device")


class PciOptions(DeviceOptions):
    """What every PCI device takes beside its own options."""

    pci_segment = Option(int, 0, "PCI segment", min=0, max=255)
    slot: Option[int | None] = Option(int, None, "PCI slot (default: the next free one)", min=1, max=31)


class PlannedVm:
    """A plan and its open files. A context manager: whatever was not handed to a runner is closed."""

    def __init__(self, plan: dict[str, Any], fds: list[int], plugins: Plugins) -> None:
        self.plan, self.fds, self.plugins = plan, fds, plugins

    @property
    def observed(self) -> bool:
        """Whether a plugin wants the events of this VM, so that a front must stay."""
        return self.plugins.observes

    def close(self) -> None:
        planfile.close_all(self.fds)

    def __enter__(self) -> PlannedVm:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class PlanContext:
    """What device types, boot methods and architectures plan with.

    config, layout, arch   what is being planned
    plan                   the plan so far
    fds                    open files, parallel to ``plan["files"]``
    dry_run                nothing may be created or changed on the host
    """

    def __init__(self, config: VmConfig, layout: Layout, plan: dict[str, Any], arch: Arch, plugins: Plugins,
                 fds: list[int], *, dry_run: bool = False, tell: Callable[[str], None] | None = None) -> None:
        self.config, self.layout, self.plan, self.arch = config, layout, plan, arch
        self.dry_run = dry_run
        self.hooks = plugins.hooks
        self.fds = fds
        self._tell = tell or (lambda line: print(line, file=sys.stderr, flush=True))
        self._gsis = list(layout.gsis)
        self._gsi_owners: set[int] = set()
        self._claims: dict[str, list[tuple[int, int, str]]] = {"port": [], "address": []}
        self._cmdline: str | None = config.cmdline
        self._types: list[str] = []  # parallel to plan["devices"]

    # --- files ------------------------------------------------------------

    def open_file(self, path: str, option: str, mode: str = "r") -> int:
        """Open a file now; its index in ``plan["files"]``. Mode r, rw, w (truncates) or a. Raises UserError."""
        path = os.path.abspath(path)
        entry: dict[str, Any] = {"path": path, "mode": mode}
        if mode == "r" and entry in self.plan["files"]:
            return int(self.plan["files"].index(entry))
        if self.dry_run and mode in ("w", "a"):
            return self._add(planfile.open_path("/dev/null", "rw", option), entry)
        return self._add(planfile.open_path(path, mode, option), entry)

    def open_stdio(self, number: int) -> int:
        """A copy of our stdin (0), stdout (1) or stderr (2); its index in ``plan["files"]``."""
        entry = {"stdio": number}
        if entry in self.plan["files"]:
            return int(self.plan["files"].index(entry))
        return self._add(planfile.dup_stdio(number), entry)

    def open_pty(self, option: str, link: str | None = None) -> int:
        """A new pseudo terminal's master, raw; index in ``plan["files"]``. Its path is told on stderr."""
        if self.dry_run:
            return self._add(planfile.open_path("/dev/null", "rw", option), {"pty": link})
        master, slave = planfile.open_pty(link, option, lambda path: self._tell(f"vmm: {option}: {path}"))
        index = self._add(master, {"pty": link})
        self._add(slave, {"pty_slave": index})  # held open, or the master is hung up between users
        return index

    def adopt_fd(self, fd: int, description: dict[str, Any]) -> int:
        """Take over an open descriptor (a socket, a TAP); its index in ``plan["files"]``.

        `description` says what it is in ``vmm plan``; such a plan cannot be saved and run later.
        """
        return self._add(planfile.above_stdio(fd), description)

    def _add(self, fd: int, entry: dict[str, Any]) -> int:
        self.fds.append(fd)
        self.plan["files"].append(entry)
        return len(self.fds) - 1

    def fd(self, index: int) -> int:
        """The open descriptor of a file index. It stays the context's."""
        return self.fds[index]

    # --- memory -----------------------------------------------------------

    def in_ram(self, gpa: int, size: int) -> bool:
        """Whether [gpa, gpa + size) lies in one piece of RAM."""
        return any(base <= gpa and gpa + size <= base + length for base, length in self.layout.ram)

    def load_file(self, gpa: int, file_index: int, offset: int, size: int) -> None:
        """Have `size` bytes at `offset` of a file read to `gpa` before the guest starts. Raises VmmError."""
        self._check_load(gpa, size)
        self.plan["load"].append({"gpa": gpa, "file": file_index, "offset": offset, "size": size})

    def load_bytes(self, gpa: int, data: bytes) -> None:
        """Have `data` written to `gpa` before the guest starts. Raises VmmError."""
        self._check_load(gpa, len(data))
        self.plan["load"].append({"gpa": gpa, "data": bytes(data)})

    def _check_load(self, gpa: int, size: int) -> None:
        if not self.in_ram(gpa, size):
            raise UserError("--memory size=", f"{human_size(self.config.memory.size)} has no room for {size} bytes at "
                            f"{gpa:#x}", "give the guest more memory")

    # --- interrupts and address space ---------------------------------------

    def gsi(self, number: int | None = None) -> int:
        """The next free interrupt for a platform device, or the one given. Raises VmmError if taken."""
        if number is None:
            if not self._gsis:
                raise VmmError("no interrupt is left for another platform device; configure fewer")
            number = self._gsis[0]
        elif number in self._gsi_owners:
            raise VmmError(f"interrupt {number} is claimed twice")
        if number in self._gsis:
            self._gsis.remove(number)
        self._gsi_owners.add(number)
        return number

    def ports(self, base: int, length: int, owner: str) -> None:
        """Claim I/O ports. Raises VmmError naming both owners if one is taken."""
        self._claim("port", base, length, owner)

    def mmio(self, base: int, length: int, owner: str) -> None:
        """Claim guest-physical addresses that are no RAM. Raises VmmError naming both owners if one is taken."""
        for start, size in self.layout.ram:
            if base < start + size and start < base + length:
                raise VmmError(f"{owner}: address {base:#x} is RAM")
        self._claim("address", base, length, owner)

    def _claim(self, what: str, base: int, length: int, owner: str) -> None:
        for start, size, other in self._claims[what]:
            if base < start + size and start < base + length:
                raise VmmError(f"{owner} and {other} both claim {what} {max(base, start):#x}; leave one out")
        self._claims[what].append((base, length, owner))

    # --- devices and command line ---------------------------------------------

    def device_plan(self, key: str | None = None) -> list[dict[str, Any]]:
        """The devices planned so far; of one type if `key` is given. Each is the dict in the plan."""
        devices: list[dict[str, Any]] = self.plan["devices"]
        return [device for device in devices if key is None or device["type"] == key]

    @property
    def cmdline(self) -> str:
        """The kernel's command line: the user's, else the words of plugins. Ask when all devices are planned."""
        if self._cmdline is None:
            words = [word for part in reversed(self.hooks.vmm_cmdline_words(context=self)) for word in part]
            self._cmdline = " ".join(dict.fromkeys(words))
        return self._cmdline


def compile_plan(config: VmConfig, plugins: Plugins | None = None, *, dry_run: bool = False,
                 tell: Callable[[str], None] | None = None) -> PlannedVm:
    """The plan for `config`, with its files open. Raises VmmError; nothing stays open then.

    plugins  what may be used (default: as `config` says)
    dry_run  create nothing on the host: for ``vmm plan``
    tell     gets lines for the user, such as a pty's path (default: stderr)
    """
    fds: list[int] = []
    try:
        return PlannedVm(*_compile(config, plugins or plugins_for(config), fds, dry_run, tell))
    except BaseException:
        planfile.close_all(fds)
        raise


def plugins_for(config: VmConfig) -> Plugins:
    """The plugins that `config` allows; none is loaded yet."""
    return Plugins((_plugin_argument(text)[0] for text in config.plugins), default_plugins=config.default_plugins)


def _compile(config: VmConfig, plugins: Plugins, fds: list[int], dry_run: bool,
             tell: Callable[[str], None] | None) -> tuple[dict[str, Any], list[int], Plugins]:
    config.check()
    _check_cpus(config)
    # a device of `--plugin NAME,key=value` stands where it was asked for
    devices = [*(DeviceConfig("\0plugin", text, origin="--plugin") for text in config.plugins), *config.devices]
    for text in config.plugins:
        plugins.load_named(_plugin_argument(text)[0])
    machine = os.uname().machine
    arch = plugins.arch(machine)
    layout: Layout = _guard(arch, lambda: arch.layout(config))
    plan = _empty_plan(config, arch, layout)
    context = PlanContext(config, layout, plan, arch, plugins, fds, dry_run=dry_run, tell=tell)
    for wanted in devices:
        _plan_device(context, plugins, wanted)
    _assign_slots(context)
    entry = _plan_boot(context, plugins)
    plan["cmdline"] = context.cmdline
    _guard(arch, lambda: arch.finish(context, entry))
    plugins.hooks.vmm_plan_ready(context=context)
    plan["modules"] = _modules(plan, plugins)
    return plan, fds, plugins


def _empty_plan(config: VmConfig, arch: Arch, layout: Layout) -> dict[str, Any]:
    cpus, memory = config.cpus, config.memory
    return {
        "version": planfile.VERSION, "id": config.id, "modules": {}, "user_path": [],
        "arch": {"name": arch.name, "module": arch.machine_module},
        "cpus": {"boot": cpus.boot, "max": cpus.max, "topology": cpus.topology, "affinity": dict(cpus.affinity),
                 "features": list(cpus.features), "max_phys_bits": cpus.max_phys_bits},
        "memory": {"regions": [[gpa, size] for gpa, size in layout.ram], "shared": memory.shared,
                   "hugepages": memory.hugepages, "hugepage_size": memory.hugepage_size or 0,
                   "prefault": memory.prefault, "mergeable": memory.mergeable, "thp": memory.thp},
        "load": [], "entry": None, "platform": {},
        "pci": {"segments": layout.segments, "gsis": list(layout.pci_gsis)},
        "devices": [], "files": [], "control": -1, "start": True, "parent_death": False,
        "timing": config.timing, "t0": 0, "t_exec": 0, "cmdline": "",
    }


def _check_cpus(config: VmConfig) -> None:
    """Compare with what KVM allows, when it can be asked."""
    from .check import kvm_max_vcpus

    limit = kvm_max_vcpus()
    if limit and config.cpus.max > limit:
        key = "boot" if config.cpus.boot > limit else "max"
        raise UserError(f"--cpus {key}=", f"{config.cpus.max} is more than this host's KVM allows", f"the most is {limit}")


def _guard(arch: Arch, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except VmmError:
        raise
    except Exception as error:
        raise PluginError(f"architecture {arch.name} failed: {cause(error)}") from error


# --- devices -------------------------------------------------------------------


def _plugin_argument(text: str) -> tuple[str, str]:
    name, _, options = text.partition(",")
    return name.strip(), options


def _plan_device(context: PlanContext, plugins: Plugins, wanted: DeviceConfig) -> None:
    if wanted.type == "\0plugin":
        assert isinstance(wanted.options, str)
        name, text = _plugin_argument(wanted.options)
        plugin = plugins.load_named(name)
        if plugin.device_class is not None:
            _plan_class(context, plugin.device_class, DeviceConfig(plugin.name, text, origin=f"--plugin {name}"),
                        plugin.name, plugin.file)
            return
        if not plugin.device_types or (not text and _has_flag(plugins, plugin)):
            if text:
                raise UserError(f"--plugin {name}", f"'{text}': this plugin has no device types", "leave the options out")
            return
        if len(plugin.device_types) > 1 and text:
            keys = ", ".join(f"--{kind.key}" for kind in plugin.device_types)
            raise UserError(f"--plugin {name}", "this plugin has several device types", f"use {keys}")
        for kind in plugin.device_types:
            _plan_type(context, plugin, kind, DeviceConfig(kind.key, text, origin=f"--plugin {name}"))
        return
    if isinstance(wanted.type, type):
        _plan_class(context, wanted.type, wanted, wanted.type.__name__.lower(), None)
        return
    if ": " in wanted.origin and not _known_key(plugins, wanted.type):
        origin = wanted.origin.rpartition(": ")[0]
        raise unknown_config_key(origin, wanted.type, [*VmConfig.SCALARS, "cpus", "memory",
                                                       *plugins.discovery.group("vmmcore.flags")])
    _plan_type(context, *plugins.device_type(wanted.type, wanted.origin), wanted)


def _has_flag(plugins: Plugins, plugin: Plugin) -> bool:
    """Whether the plugin's devices are asked for with flags; then --plugin alone only activates it."""
    flags = plugins.discovery.group("vmmcore.flags")
    return plugin.file is None and any(kind.key in flags for kind in plugin.device_types)


def _known_key(plugins: Plugins, key: str) -> bool:
    return (key in plugins.discovery.group("vmmcore.flags")
            or any(kind.key == key for plugin in plugins.loaded for kind in plugin.device_types))


def _plan_type(context: PlanContext, plugin: Plugin, kind: DeviceType, wanted: DeviceConfig) -> None:
    if not kind.many and context.device_plan(kind.key):
        raise UserError(wanted.origin, "given more than once", "one is the most")
    common, own = _split_options(wanted, kind.options, kind.bus)
    device = _new_device(context, wanted, kind.key, kind.bus, common)
    module, _, name = kind.factory.rpartition(":")
    if plugin.file is not None and module in ("", plugin.module.__name__, plugin.name):
        device["file"], device["class"] = plugin.file, name
        _use_user_path(context)
    else:
        device["module"], device["class"] = module, name
    device["options"] = own.to_dict() if own is not None else {}
    if kind.plan is not None:
        try:
            if kind.plan(context, own, device) is False:
                return
        except VmmError:
            raise
        except Exception as error:
            raise PluginError(f"plugin {plugin.name} failed to plan {device['id']}: {cause(error)}") from error
    context.plan["devices"].append(device)


def _plan_class(context: PlanContext, cls: type, wanted: DeviceConfig, key: str, file: str | None) -> None:
    """A device class without a device type: of a plain file, or of the caller's own code."""
    from ..device import Device, PciDevice

    if not issubclass(cls, Device):
        raise UserError(wanted.origin, f"{cls.__name__} is no vmmcore.Device", "derive it from Device or PciDevice")
    if file is None:
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if file is None or "." in cls.__qualname__:
            raise UserError(wanted.origin, f"the runner cannot import {cls.__qualname__} of {cls.__module__}",
                            "define the class at the top level of a file")
    bus = "pci" if issubclass(cls, PciDevice) else "platform"
    options: type[Options] | None = getattr(cls, "OPTIONS", None)
    common, own = _split_options(wanted, options, bus, free=options is None)
    device = _new_device(context, wanted, key, bus, common)
    device["class"] = cls.__name__
    if is_file(file) and cls.__module__ in ("__main__", "__mp_main__") or cls.__module__.startswith("vmm_file_"):
        device["file"] = os.path.abspath(file)
    else:
        device["module"] = cls.__module__
    device["options"] = own if isinstance(own, dict) else own.to_dict() if own is not None else {}
    _use_user_path(context)
    context.plan["devices"].append(device)


def _use_user_path(context: PlanContext) -> None:
    """Code of the caller's own may import what the caller could."""
    context.plan["user_path"] = [os.path.abspath(path) for path in sys.path if path != ""] + (
        [os.getcwd()] if "" in sys.path else [])


def _split_options(wanted: DeviceConfig, options: type[Options] | None, bus: str,
                   free: bool = False) -> tuple[DeviceOptions, Any]:
    """The common options and the type's own ones (a dict if `free`)."""
    common_class = PciOptions if bus == "pci" else DeviceOptions
    declared = options or _None
    common_keys = tuple(key for key in common_class._options if key not in declared._options)
    given = wanted.options or {}
    values: dict[str, Any]
    if not isinstance(given, str):
        values = dict(given)
    elif free:
        values = {}
        for part in split_or_fail(given, wanted.origin):
            key, equals, value = part.partition("=")
            values[key] = unquote(value) if equals else "on"
    else:
        values = declared.pairs(given, wanted.origin, common_keys)
    if not free:
        for key in values:
            if key.replace("-", "_") not in declared._options and key not in common_keys:
                raise unknown_key(wanted.origin, str(key), [*declared._options, *common_keys])
    common = common_class.from_dict({key: values.pop(key) for key in common_keys if key in values}, wanted.origin)
    if free:
        return common, values
    return common, options.from_dict(values, wanted.origin) if options is not None else None


class _None(Options):
    """The options of a device that has none."""


def _new_device(context: PlanContext, wanted: DeviceConfig, key: str, bus: str, common: DeviceOptions) -> dict[str, Any]:
    taken = {device["id"] for device in context.plan["devices"]}
    name = wanted.id or common.id
    if name is None:
        number = 0
        while f"{key}{number}" in taken:
            number += 1
        name = f"{key}{number}"
    check_id(name, f"{wanted.origin} id=")
    if name in taken:
        raise UserError(f"{wanted.origin} id=", f"'{name}' is already the id of another device", "choose another")
    device: dict[str, Any] = {"id": name, "type": key, "class": "", "bus": bus, "options": {}, "resources": {},
                              "files": {}}
    if isinstance(common, PciOptions):
        device["segment"] = common.pci_segment
        device["slot"] = common.slot if common.slot is not None else 0
    return device


def _assign_slots(context: PlanContext) -> None:
    """PCI slots: those asked for, then the next free one in the order of devices; 0 is the host bridge."""
    segments = {segment["id"] for segment in context.layout.segments}
    taken: dict[tuple[int, int], str] = {}
    devices = [device for device in context.plan["devices"] if device["bus"] == "pci"]
    for device in devices:
        where = f"--{device['type']}"
        if device["segment"] not in segments:
            raise UserError(f"{where} pci_segment=", f"there is no PCI segment {device['segment']}",
                            f"the last is {max(segments)}" if segments else "this machine has no PCI")
        place = device["segment"], device["slot"]
        if device["slot"] and taken.setdefault(place, device["id"]) != device["id"]:
            raise UserError(f"{where} slot=", f"slot {device['slot']} is taken by {taken[place]}", "choose another")
    for device in devices:
        if not device["slot"]:
            free = [slot for slot in range(1, 32) if (device["segment"], slot) not in taken]
            if not free:
                raise UserError(f"--{device['type']}", f"PCI segment {device['segment']} has no free slot",
                                "31 devices are the most; use pci_segment=")
            device["slot"] = free[0]
            taken[device["segment"], free[0]] = device["id"]


# --- booting ---------------------------------------------------------------------


def _plan_boot(context: PlanContext, plugins: Plugins) -> dict[str, Any]:
    config = context.config
    option, path = ("--firmware", config.firmware) if config.firmware else ("--kernel", config.kernel)
    assert path is not None
    index = context.open_file(path, option)
    fd = context.fd(index)
    head = os.pread(fd, HEAD_SIZE, 0)
    size = os.lseek(fd, 0, os.SEEK_END)
    os.lseek(fd, 0, os.SEEK_SET)
    names = plugins.load_boot()
    try:
        claims: list[BootClaim] = list(reversed(plugins.hooks.vmm_boot_probe(path=path, head=head, size=size)))
    except VmmError:
        raise
    except Exception as error:
        raise PluginError(f"a boot method failed on {path}: {cause(error)}") from error
    if not claims:
        raise UserError(option, f"{path}: no boot method can boot this file" if size else f"{path}: the file is empty",
                        f"asked: {', '.join(names)}")
    best = max(claims, key=lambda claim: claim.score)
    try:
        return best.plan(context)
    except VmmError:
        raise
    except Exception as error:
        raise PluginError(f"boot method {best.name} failed on {path}: {cause(error)}") from error


# --- modules -----------------------------------------------------------------------


def _modules(plan: dict[str, Any], plugins: Plugins) -> dict[str, str]:
    """Top-level modules that the runner may import, and the directory that holds each."""
    names = ["vmmcore", "_cffi_backend", plan["arch"]["module"].partition(".")[0]]
    names += [device["module"].partition(".")[0] for device in plan["devices"] if "module" in device]
    used = {*names}
    for plugin in plugins.loaded:
        if plugin.module.__name__.partition(".")[0] in used:
            names += getattr(plugin.module, "MODULES", ())
    return {name: find_module(name) for name in dict.fromkeys(names)}


def find_module(name: str) -> str:
    """The directory that holds the top-level module `name`, which is not imported. Raises PluginError."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(name, None) if find is not None else None
        if spec is not None and spec.origin is not None and os.path.isabs(spec.origin):
            folder: str = os.path.dirname(spec.origin)
            return os.path.dirname(folder) if spec.submodule_search_locations is not None else folder
    raise PluginError(f"the module {name} is not installed, or not as files")
