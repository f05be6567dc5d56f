# SPDX-License-Identifier: Apache-2.0
"""What a person asks for: the configuration of one VM, from flags, a file or Python."""

from __future__ import annotations

import os

from ..errors import UserError
from .options import Affinity, Option, Options, Path, Size, StrList, nearest, unbracket
from .options import Kind as _Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ..device import Device
    from .options import T
    from .zones import MemoryZone, Numa, PciSegment, Platform

#: more than any KVM supports; what this host's KVM allows is asked when the plan is made
MAX_CPUS = 8192


class _Topology(_Kind["list[int]"]):
    name = "THREADS:CORES:DIES:PACKAGES"
    json = {
        "anyOf": [
            {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 4, "maxItems": 4},
            {"type": "string"},
        ]
    }

    def parse(self, text: str) -> list[int]:
        parts = unbracket(text).split(":")
        if len(parts) != 4 or not all(p.isascii() and p.isdigit() and 0 < int(p) <= MAX_CPUS for p in parts):
            raise ValueError(f"'{text}' is not {self.name}, four numbers from 1")
        return [int(part) for part in parts]

    def accept(self, value: Any) -> list[int]:
        if isinstance(value, list | tuple):
            return self.parse(":".join(map(str, value)))
        return super().accept(value)


class Cpus(Options):
    """``--cpus``: the processors. ``--cpus 2`` is ``--cpus boot=2``."""

    positional = "boot"
    boot = Option(int, 1, "vCPUs running at boot", min=1, max=MAX_CPUS)
    max = Option(int, 0, "vCPUs that may ever run, for hot plug (default: boot)", min=1, max=MAX_CPUS)
    topology: Option[list[int] | None] = Option(
        _Topology(), None, "threads per core, cores per die, dies per package, packages"
    )
    affinity = Option(Affinity, {}, "host CPUs that each vCPU thread may run on: [0@[0-3],1@[4,5]]")
    max_phys_bits = Option(int, 46, "most guest-physical address bits", min=32, max=59)
    features = Option(StrList, [], "CPU features on request, as the architecture knows them")

    def validate(self, option: str) -> None:
        if not self.max:
            self.max = self.boot
        if self.max < self.boot:
            raise UserError(
                f"{option} max=", f"{self.max} is less than boot={self.boot}", "raise max= or lower boot="
            )
        if self.topology is not None:
            threads, cores, dies, packages = self.topology
            if threads * cores * dies * packages != self.max:
                raise UserError(
                    f"{option} topology=",
                    f"{':'.join(map(str, self.topology))} makes "
                    f"{threads * cores * dies * packages} CPUs, not {self.max}",
                    "let the product be max=",
                )
        for vcpu, hosts in self.affinity.items():
            if vcpu >= self.max:
                raise UserError(
                    f"{option} affinity=", f"there is no vCPU {vcpu}", f"the last is {self.max - 1}"
                )
            absent = [host for host in hosts if not os.path.isdir(f"/sys/devices/system/cpu/cpu{host}")]
            if absent or not hosts:
                raise UserError(
                    f"{option} affinity=",
                    f"vCPU {vcpu}: this host has no CPU {absent[0]}"
                    if absent
                    else f"vCPU {vcpu} has no host CPU",
                    "see lscpu for those online",
                )


#: what memory is plugged in: Linux's memory blocks on x86-64, and on AArch64 with 4 KiB pages
BLOCK = 128 << 20


class _HotplugMethod(_Kind[str]):
    name = "acpi|virtio-mem"
    json = {"type": "string", "enum": ["acpi", "virtio-mem", "Acpi", "VirtioMem"]}

    def parse(self, text: str) -> str:
        known = {"acpi": "acpi", "virtiomem": "virtio-mem"}
        found = known.get(text.lower().replace("-", "").replace("_", ""))
        if found is None:
            raise ValueError(f"'{text}' is neither acpi nor virtio-mem")
        return found


class Memory(Options):
    """``--memory``: the guest's RAM. ``--memory 512M`` is ``--memory size=512M``. Sizes in bytes.

    With memory zones, `size` is what they have together.
    """

    positional = "size"
    size = Option(Size, 512 << 20, "bytes of RAM")
    shared = Option(bool, False, "share the memory file, as vhost-user needs")
    hugepages = Option(bool, False, "back it with hugetlbfs pages")
    hugepage_size: Option[int | None] = Option(Size, None, "which huge page size (default: the host's)")
    prefault = Option(bool, False, "populate all pages before the guest starts")
    mergeable = Option(bool, False, "let the host's KSM merge equal pages")
    thp = Option(bool, True, "transparent huge pages")
    hotplug_method = Option(_HotplugMethod(), "acpi", "how memory comes while the guest runs")
    hotplug_size: Option[int | None] = Option(Size, None, "bytes that may come beyond size=")
    hotplugged_size: Option[int | None] = Option(Size, None, "bytes of these that are there at the start")

    def validate(self, option: str) -> None:
        where = f"{option} size="
        if self.size < 4 << 20:
            raise UserError(
                where, f"{human_size(self.size)} is too small for a guest", "the least is 4M; try 512M"
            )
        check_backing(self, option)
        check_hotplug(self, option)
        total, swap = _meminfo()
        if total and self.size > total + swap:
            raise UserError(
                where,
                f"{human_size(self.size)} is more than this host has ({human_size(total)} of RAM, "
                f"{human_size(swap)} of swap)",
                "ask for less",
            )


def check_backing(memory: Memory | MemoryZone, option: str) -> None:
    """Huge pages that the host has, and a size in whole pages. Raises UserError."""
    unit = 4096
    if memory.hugepage_size is not None and not memory.hugepages:
        raise UserError(
            f"{option} hugepage_size=", "has no effect without hugepages=on", "add hugepages=on"
        )
    if memory.hugepages:
        known = _hugepage_sizes()
        unit = memory.hugepage_size or _default_hugepage()
        if unit not in known:
            raise UserError(
                f"{option} hugepage_size=",
                f"this host has no huge pages of {human_size(unit)}",
                f"it has {', '.join(map(human_size, known)) or 'none'}",
            )
    if memory.size % unit:
        raise UserError(
            f"{option} size=",
            f"{memory.size} is not a multiple of the page size, {human_size(unit)}",
            "round it",
        )


def check_hotplug(memory: Memory | MemoryZone, option: str) -> None:
    """Sizes of memory that comes later. Raises UserError."""
    room, there = memory.hotplug_size or 0, memory.hotplugged_size or 0
    for key, size in (("hotplug_size", room), ("hotplugged_size", there)):
        unit = max(BLOCK, memory.hugepage_size or 0)
        if size % unit:
            raise UserError(
                f"{option} {key}=", f"{size} is not a multiple of {human_size(unit)}", "round it"
            )
    if there > room:
        raise UserError(
            f"{option} hotplugged_size=",
            f"{human_size(there)} is more than hotplug_size={human_size(room)}",
            "raise hotplug_size=",
        )


class Firmware(Options):
    """``--firmware``: what runs first instead of a kernel. ``--firmware FILE`` is ``--firmware path=FILE``."""

    path = Option(Path, doc="the firmware's code")
    vars: Option[str | None] = Option(
        Path, None, "file that keeps its variables; made if it does not exist (default: forgotten at the end)"
    )
    template: Option[str | None] = Option(Path, None, "what the variables are at first (default: none are set)")


class DeviceConfig:
    """One device: its type (a device type's key or a Device class), its options, and an id.

    options  a dict, or text in the flag syntax (``"path=/a.img,readonly=on"``)
    id       unique in the VM; None: the type's key and a number (``disk0``)
    origin   where it was asked for, for error messages (``--disk``)
    """

    __slots__ = ("id", "options", "origin", "type")

    def __init__(
        self,
        type: str | type[Device],
        options: Mapping[str, Any] | str | None = None,
        id: str | None = None,
        *,
        origin: str = "",
    ) -> None:
        self.type, self.options, self.id = type, options, id
        self.origin = origin or (f"--{type}" if isinstance(type, str) else type.__name__)

    def __repr__(self) -> str:
        return f"DeviceConfig({self.type!r}, {self.options!r}, id={self.id!r})"


class VmConfig:
    """The configuration of one VM.

    kernel, initramfs  paths
    firmware         :class:`Firmware`, a path, or a dict or text of its options
    cmdline          the kernel command line; None: plugins contribute words (``console=ttyS0``)
    cpus, memory     :class:`Cpus`, :class:`Memory`, or a dict or text of their options
    devices          DeviceConfig objects, device type names, or Device classes of your own
    plugins          plugins to activate: names or ``./file.py``, each with ``,key=value`` options if
                     it is to make a device
    default_plugins  False: no installed plugin is used that `plugins` does not name
    memory_zones     :class:`.zones.MemoryZone`, or a dict or text each: pieces of RAM with backings of their own
    numa             :class:`.zones.Numa`, or a dict or text each: the guest's NUMA nodes
    platform         :class:`.zones.Platform`, or a dict or text: PCI segments, SMBIOS strings
    pci_segments     :class:`.zones.PciSegment`, or a dict or text each: shares of the address space
    id               the VM's name: letters, digits, ``-``, ``_`` and ``.``
    timing           print how long each phase of the start took

    Raises UserError, which names the option and the mend.
    """

    SCALARS = ("id", "kernel", "initramfs", "firmware", "cmdline", "plugins", "default_plugins", "timing")
    #: keys of what is neither a scalar nor a device
    PARTS = ("cpus", "memory", "memory_zones", "numa", "platform", "pci_segments")

    def __init__(
        self,
        *,
        kernel: str | os.PathLike[str] | None = None,
        initramfs: str | os.PathLike[str] | None = None,
        firmware: Firmware | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        cmdline: str | None = None,
        cpus: Cpus | Mapping[str, Any] | str | int | None = None,
        memory: Memory | Mapping[str, Any] | str | int | None = None,
        devices: Sequence[DeviceConfig | str | type[Device]] = (),
        plugins: Sequence[str] = (),
        default_plugins: bool = True,
        id: str = "vm",
        timing: bool = False,
        memory_zones: Sequence[MemoryZone | Mapping[str, Any] | str] = (),
        numa: Sequence[Numa | Mapping[str, Any] | str] = (),
        platform: Platform | Mapping[str, Any] | str | None = None,
        pci_segments: Sequence[PciSegment | Mapping[str, Any] | str] = (),
    ) -> None:
        self.kernel = _path(kernel, "--kernel")
        self.initramfs = _path(initramfs, "--initramfs")
        if hasattr(firmware, "__fspath__"):
            firmware = {"path": firmware}
        self.firmware = None if firmware is None else _options(Firmware, firmware, "--firmware", "path")
        self.cmdline = cmdline
        self.cpus = _options(Cpus, cpus, "--cpus", "boot")
        self.memory_zones: list[MemoryZone] = []
        self.numa: list[Numa] = []
        self.platform: Platform | None = None
        self.pci_segments: list[PciSegment] = []
        if memory_zones or numa or platform is not None or pci_segments:
            from . import zones

            self.memory_zones = [_options(zones.MemoryZone, zone, "--memory-zone", "id") for zone in memory_zones]
            self.numa = [_options(zones.Numa, node, "--numa", "guest_numa_id") for node in numa]
            if platform is not None:
                self.platform = _options(zones.Platform, platform, "--platform", "num_pci_segments")
            self.pci_segments = [
                _options(zones.PciSegment, segment, "--pci-segment", "pci_segment") for segment in pci_segments
            ]
        self.memory = memory_of(memory, "--memory", self.memory_zones)
        if self.memory_zones or self.numa or self.pci_segments:
            zones.check_together(self)
        self.devices = [d if isinstance(d, DeviceConfig) else DeviceConfig(d) for d in devices]
        self.plugins = list(plugins)
        self.default_plugins, self.timing = default_plugins, timing
        self.id = check_id(id, "--id")
        if cmdline is not None and ("\0" in cmdline or "\n" in cmdline):
            raise UserError("--cmdline", "a line end or NUL cannot be part of it", "put it on one line")
        if isinstance(plugins, str):
            raise UserError("plugins", "expected a list of plugins", f'write ["{plugins}"]')

    @property
    def num_pci_segments(self) -> int:
        return self.platform.num_pci_segments if self.platform else 1

    def segment_weights(self, window: str) -> list[int]:
        """What each PCI segment gets of a window ("mmio32", "mmio64"), compared with the others."""
        given = {segment.pci_segment: getattr(segment, f"{window}_aperture_weight") for segment in self.pci_segments}
        return [given.get(segment, 1) for segment in range(self.num_pci_segments)]

    @property
    def hotplug_room(self) -> list[tuple[str, int, int]]:
        """Addresses to keep free for memory that comes later: (zone, bytes, alignment); that of --memory is zone ""."""
        wanted: list[tuple[str, Memory | MemoryZone]] = [(zone.id, zone) for zone in self.memory_zones]
        return [
            (name, memory.hotplug_size, max(BLOCK, memory.hugepage_size or 0))
            for name, memory in wanted or [("", self.memory)]
            if memory.hotplug_size
        ]

    def check(self) -> None:
        """Checks that need the host: files that exist and are readable. Raises UserError."""
        for option, path in (
            ("--kernel", self.kernel),
            ("--firmware", self.firmware.path if self.firmware else None),
            ("--initramfs", self.initramfs),
        ):
            if path is not None:
                check_readable(option, path)
        if self.kernel is None and self.firmware is None:
            raise UserError("--kernel", "nothing to boot", "give --kernel FILE or --firmware FILE")
        if self.kernel is None and self.initramfs is not None:
            raise UserError("--initramfs", "has no use without a kernel", "add --kernel FILE")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> VmConfig:
        """Read a TOML file, or JSON if its name ends in ``.json``. Its keys are those of the flags::

            kernel = "/boot/vmlinuz"
            cpus = "boot=2"              # or a table: [cpus] boot = 2
            [memory]
            size = "1G"
            [[disk]]                     # any device type
            path = "disk.img"

        Raises UserError: unreadable, malformed, a key that is no option, device type or plugin.
        """
        from .discovery import Discovery

        values = read_file(path)
        config = cls(**from_values(values, f"{os.fspath(path)}"))
        known = [*cls.SCALARS, *cls.PARTS, *Discovery().group("vmmcore.flags")]
        for device in config.devices:
            if device.type not in known and not config.plugins:
                assert isinstance(device.type, str)
                raise unknown_config_key(os.fspath(path), device.type, known)
        return config


def memory_of(value: Any, option: str, zones: Sequence[MemoryZone]) -> Memory:
    """The options of ``--memory``; with zones, its size is theirs. Raises UserError."""
    if not zones:
        return _options(Memory, value, option, "size")
    if isinstance(value, Memory):
        values = {key: item for key, item in value.to_dict().items() if key != "size"}
    elif isinstance(value, str):
        values = Memory.pairs(value, option)
    else:
        values = {"size": value} if isinstance(value, int) else dict(value or {})
    if Memory.size.check(values.pop("size", 0), f"{option} size="):
        raise UserError(f"{option} size=", "the RAM is that of the memory zones", "write size=0, or leave it out")
    if values.get("hotplug_size"):
        raise UserError(f"{option} hotplug_size=", "has no zone", "give it to a --memory-zone")
    return Memory.from_dict({**values, "size": sum(zone.size for zone in zones)}, option)


def read_file(path: str | os.PathLike[str], option: str = "--config") -> dict[str, Any]:
    """The top-level table of a TOML or JSON file. Raises UserError."""
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(16 << 20)
    except OSError as error:
        raise UserError(option, f"{path}: {error.strerror}", "name a readable TOML or JSON file") from None
    if path.endswith(".json"):
        import json as parser

        loads: Any = parser.loads
    else:
        import tomllib

        loads = tomllib.loads
    try:
        values = loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(option, f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(option, f"{path}: the top level must be an object")
    return values


def from_values(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Arguments of :class:`VmConfig` from the keys of a file; other keys are device types."""
    result: dict[str, Any] = {}
    devices: list[DeviceConfig] = []
    for key, value in values.items():
        key = key.replace("-", "_") if key.replace("-", "_") in VmConfig.SCALARS else key
        if key == "firmware":
            result[key] = _options(Firmware, value, f"{origin}: {key}", "path")
        elif key in ("id", "kernel", "initramfs", "cmdline"):
            if not isinstance(value, str):
                raise UserError(f"{origin}: {key}", f"expected text, not {value!r}")
            result[key] = value
        elif key in ("default_plugins", "timing"):
            if not isinstance(value, bool):
                raise UserError(f"{origin}: {key}", f"expected true or false, not {value!r}")
            result[key] = value
        elif key == "plugins":
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise UserError(f"{origin}: {key}", "expected a list of names")
            result[key] = value
        elif key == "cpus":
            result[key] = _options(Cpus, value, f"{origin}: {key}", "boot")
        elif key in ("memory", "platform"):
            if key == "memory" and not values.get("memory_zones", values.get("memory-zones")):
                value = memory_of(value, f"{origin}: {key}", ())
            result[key] = value
        elif key.replace("-", "_") in ("memory_zones", "numa", "pci_segments"):
            result[key.replace("-", "_")] = value if isinstance(value, list) else [value]
        else:
            for item in value if isinstance(value, list) else [value]:
                if not isinstance(item, dict | str):
                    known = [*VmConfig.SCALARS, *VmConfig.PARTS]
                    raise unknown_config_key(origin, key, known)
                devices.append(DeviceConfig(key, item, origin=f"{origin}: {key}"))
    result["devices"] = devices
    return result


def unknown_config_key(origin: str, key: str, known: list[str]) -> UserError:
    """The error for a key of a config file that nothing knows."""
    close = nearest(key, known)
    return UserError(
        origin,
        f"unknown key '{key}'",
        f"did you mean {close}?"
        if close
        else "it is no option, device type or plugin; see `vmm plugins list`",
    )


def check_id(name: str, option: str) -> str:
    """`name` if it can be an id (of a VM or a device). Raises UserError."""
    if (
        not name
        or len(name) > 64
        or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        or not name.isascii()
    ):
        raise UserError(option, f"'{name}' cannot be an id", "use up to 64 letters, digits, '-', '_' and '.'")
    return name


def check_readable(option: str, path: str) -> None:
    """Raise UserError unless `path` is a file that we may read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UserError(option, f"{path}: {error.strerror}", "name a file that you may read") from None
    mode = os.fstat(fd).st_mode & 0o170000
    os.close(fd)
    if mode not in (0o100000, 0o060000):
        raise UserError(option, f"{path}: not a regular file", "name the file itself")


def human_size(size: int) -> str:
    """`size` bytes for people: 512M, 1.5G, 4097."""
    for shift, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size >= 1 << shift:
            return f"{size >> shift}{unit}" if not size % (1 << shift) else f"{size / (1 << shift):.1f}{unit}"
    return str(size)


def _path(path: str | os.PathLike[str] | None, option: str) -> str | None:
    if path is None:
        return None
    try:
        return Path.accept(path)
    except ValueError as error:
        raise UserError(option, str(error)) from None


def _options(cls: type[T], value: Any, option: str, positional: str) -> T:
    assert issubclass(cls, Options)
    if isinstance(value, cls):
        return value
    if value is None:
        return cls.from_dict({}, option)
    if isinstance(value, str):
        return cls.parse(value, option)
    if isinstance(value, int) and not isinstance(value, bool):
        return cls.from_dict({positional: value}, option)
    if not hasattr(value, "items"):
        raise UserError(option, f"expected a table or text, not {value!r}")
    return cls.from_dict(value, option)


def _meminfo() -> tuple[int, int]:
    """Bytes of RAM and swap of the host; (0, 0) when unknown."""
    found = {"MemTotal": 0, "SwapTotal": 0}
    try:
        with open("/proc/meminfo", "rb") as file:
            for line in file.read(8192).decode().splitlines():
                name, _, rest = line.partition(":")
                if name in found:
                    found[name] = int(rest.split()[0]) << 10
    except (OSError, ValueError, IndexError):
        return 0, 0
    return found["MemTotal"], found["SwapTotal"]


def _hugepage_sizes() -> list[int]:
    try:
        names = os.listdir("/sys/kernel/mm/hugepages")
    except OSError:
        return []
    return sorted(
        int(name[10:-2]) << 10 for name in names if name.startswith("hugepages-") and name.endswith("kB")
    )


def _default_hugepage() -> int:
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("Hugepagesize:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return 2 << 20
