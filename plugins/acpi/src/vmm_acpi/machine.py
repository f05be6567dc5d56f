# SPDX-License-Identifier: Apache-2.0
r"""The complete ACPI tables of a machine, from a plain description (`X86Spec`, `ArmSpec` of `vmm_acpi.spec`).

The machine is hardware-reduced (ACPI 6.5 §3.11.1, §4.1): no PM1 registers and no SCI; events come
through a generic event device, sleep and reset through one port each (x86) or PSCI (Arm).  All
addresses and interrupts are the caller's.  What only Arm machines have is in `arm_machine`.
"""

from __future__ import annotations

from . import aml as a
from . import dsdt as d
from . import madt as m
from . import tables as t

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .spec import ArmSpec, CommonSpec, X86Spec

MAX_SIZE = 0x60000  # 384 KiB: 0xa0000 up to 1 MiB
ALIGN = 16
S5_SLEEP_TYPE = 5

# Keys that every machine has to give, and those that it may give.
_REQUIRED = frozenset(("address", "cpus", "segments"))
_OPTIONAL = frozenset(
    (
        *("ged", "scan", "pci_hotplug", "serial", "fadt_flags", "reserved"),
        *("preserve_boot_config", "osc_control"),
        *("extra", "extra_root", "cpus_aml", "madt_extra", "memory", "distances", "srat_extra", "tables"),
        *("oem_id", "oem_table_id", "oem_revision", "creator_id", "hypervisor_id", "max_size"),
    )
)
_X86_REQUIRED = frozenset(("ioapics",))
_X86_OPTIONAL = frozenset(
    (
        *("lapic_address", "apic_mode", "isos", "lapic_nmi", "pcat_compat", "sleep_port", "reset_port"),
        *("reset_value", "pm_timer_port", "rtc", "vga", "boot_arch", "reserved_io"),
    )
)


class Blob:
    """Tables ready to be loaded: `data` belongs at guest-physical `address`, where the RSDP stands.

    `tables` lists `(signature, guest-physical address, size in bytes)` in order.
    """

    __slots__ = ("address", "data", "tables")

    def __init__(self, address: int, data: bytes, tables: list[tuple[str, int, int]]) -> None:
        self.address = address
        self.data = data
        self.tables = tables


def build_x86(spec: X86Spec) -> Blob:
    """Build RSDP, DSDT, FACP, APIC, MCFG, SRAT, SLIT, the caller's tables and XSDT, in this order.

    The tables follow one another, each aligned to 16 bytes.  Raises ValueError for an unknown or
    missing key, a value that does not fit its field, or tables larger than `max_size`.
    """
    ids = identify(spec, _X86_REQUIRED, _X86_OPTIONAL)
    cpus = spec["cpus"]
    distinct("APIC id", [cpu["apic_id"] for cpu in cpus])
    distinct("processor UID", [cpu.get("uid", index) for index, cpu in enumerate(cpus)])
    rtc = spec.get("rtc")
    dsdt = build_dsdt(
        spec,
        ids,
        d.processors(cpus, spec.get("cpus_aml", b"")),
        [d.serial_port(index, port) for index, port in enumerate(spec.get("serial", ()))]
        + ([d.rtc_clock(rtc)] if rtc else []),
    )
    return assemble(
        spec,
        ids,
        dsdt,
        lambda dsdt_address: [_fadt(spec, dsdt_address, ids), _madt(spec, ids)],
        lambda: _cpu_affinities(spec),
    )


def build_arm(spec: ArmSpec) -> Blob:
    """Build RSDP, DSDT, FACP, APIC, GTDT, SPCR, DBG2, IORT, PPTT, and from MCFG on what x86 has.

    Interrupts of the description are GSIs (GSI n is SPI n, GSIV 32 + n).  Raises ValueError as `build_x86`.
    """
    from .arm_machine import build

    return build(spec)


def identify(spec: CommonSpec, required: frozenset[str], optional: frozenset[str]) -> t.Ids:
    """Check the keys that a description has besides the common ones; its identification fields."""
    keys = spec.keys()
    required, known = _REQUIRED | required, _REQUIRED | _OPTIONAL | required | optional
    if not required <= keys:
        raise ValueError(f"ACPI machine description lacks {', '.join(sorted(required - keys))}")
    if not known >= keys:
        raise ValueError(f"ACPI machine description: unknown {', '.join(sorted(keys - known))}")
    distinct("PCI segment id", [segment["id"] for segment in spec["segments"]])
    return t.Ids(
        spec.get("oem_id", b"VMM   "),
        spec.get("oem_table_id", b"VMMTABLE"),
        spec.get("oem_revision", 1),
        spec.get("creator_id", b"VMM "),
    )


def assemble(
    spec: CommonSpec,
    ids: t.Ids,
    dsdt: bytes,
    tables: Callable[[int], list[bytes]],
    cpu_affinities: Callable[[], list[bytes]],
    max_size: int = MAX_SIZE,
) -> Blob:
    """Put all tables in their places: `tables` gives the machine's own for the DSDT's address."""
    address = spec["address"]
    if address < 0 or address % ALIGN:
        raise ValueError(f"ACPI address {address:#x} is not a multiple of {ALIGN}")
    placer = _Placer(address)
    placer.add(bytes(36))  # the RSDP, filled in when the XSDT has its place
    dsdt_address = placer.add(dsdt)
    listed = [placer.add(table) for table in tables(dsdt_address)]
    if spec["segments"]:
        areas = [(s["ecam"], s["id"], *s.get("buses", (0, 0))) for s in spec["segments"]]
        listed.append(placer.add(t.mcfg(areas, ids)))
    if "memory" in spec:
        from . import numa

        affinities = cpu_affinities()
        for memory in spec["memory"]:
            flags = numa.ENABLED | (numa.HOT_PLUGGABLE if memory.get("hotplug") else 0)
            affinities.append(numa.memory_affinity(memory["node"], memory["base"], memory["size"], flags))
        affinities += spec.get("srat_extra", ())
        listed.append(placer.add(numa.srat(affinities, ids)))
        if "distances" in spec:
            listed.append(placer.add(numa.slit(spec["distances"], ids)))
    listed += [placer.add(table) for table in spec.get("tables", ())]
    xsdt_address = placer.add(t.xsdt(listed, ids))
    placer.data[:36] = t.rsdp(xsdt_address, ids)
    limit = spec.get("max_size", max_size)
    if len(placer.data) > limit:
        raise ValueError(f"ACPI tables take {len(placer.data)} bytes; {limit} fit at {address:#x}")
    return Blob(address, bytes(placer.data), placer.tables)


def build_dsdt(spec: CommonSpec, ids: t.Ids, processors: bytes, devices: Sequence[bytes]) -> bytes:
    r"""The DSDT alone: `\_SB` with the devices, `\_S5` (ACPI 6.5 §5.2.11.1, §7.4.2.6)."""
    pci_hotplug = spec.get("pci_hotplug")
    if pci_hotplug is not None:
        from . import pci_hotplug as p

        spec = p.with_slots(spec)
        devices = [*devices, p.controller(pci_hotplug, spec["segments"])]
    body = [d.host_bridge(segment, spec) for segment in spec["segments"]]
    body += [d.motherboard(spec), processors, *devices]
    ged = spec.get("ged")
    if ged:
        body.append(d.event_device(ged, spec.get("scan", {})))
    aml = a.scope("\\_SB", *body, *spec.get("extra", ()))
    if spec.get("sleep_port") is not None:
        aml += a.name("\\_S5", a.package(S5_SLEEP_TYPE, 0, 0, 0))
    # Revision 2 and up: integers are 64 bits wide.
    return t.sdt(b"DSDT", 6, aml + b"".join(spec.get("extra_root", ())), ids)


def _fadt(spec: X86Spec, dsdt_address: int, ids: t.Ids) -> bytes:
    sleep, reset = spec.get("sleep_port"), spec.get("reset_port")
    sleep_register = t.NO_REGISTER if sleep is None else t.gas(t.SYSTEM_IO, sleep, 8, 1)
    boot_arch = spec.get("boot_arch", 0)
    if spec.get("serial"):
        boot_arch |= t.BOOT_LEGACY_DEVICES
    if not spec.get("vga"):
        boot_arch |= t.BOOT_VGA_NOT_PRESENT
    if not spec.get("rtc"):
        boot_arch |= t.BOOT_CMOS_RTC_NOT_PRESENT
    return t.fadt(
        dsdt_address,
        ids,
        flags=t.HW_REDUCED_ACPI | t.WBINVD | t.PWR_BUTTON | t.SLP_BUTTON | spec.get("fadt_flags", 0),
        boot_arch=boot_arch,
        sleep_control=sleep_register,
        sleep_status=sleep_register,
        reset_register=t.NO_REGISTER if reset is None else t.gas(t.SYSTEM_IO, reset, 8, 1),
        reset_value=0 if reset is None else spec.get("reset_value", 1),
        pm_timer_port=spec.get("pm_timer_port"),
        hypervisor_id=spec.get("hypervisor_id", b"VMM     "),
    )


def _madt(spec: X86Spec, ids: t.Ids) -> bytes:
    """Processors first, in the order given: the OS numbers them so (ACPI 6.5 §5.2.12.1)."""
    mode = spec.get("apic_mode", "auto")
    if mode not in ("auto", "x2apic"):
        raise ValueError(f"ACPI apic_mode {mode!r}: auto or x2apic")
    structures = []
    wide = narrow = False
    for index, cpu in enumerate(spec["cpus"]):
        uid, apic_id = cpu.get("uid", index), cpu["apic_id"]
        flags = m.ENABLED if cpu.get("enabled", True) else m.ONLINE_CAPABLE
        if mode == "auto" and apic_id < 0xFF and uid < 0xFF:
            narrow = True
            structures.append(m.local_apic(uid, apic_id, flags))
        else:
            wide = True
            structures.append(m.local_x2apic(uid, apic_id, flags))
    for index, ioapic in enumerate(spec["ioapics"]):
        structures.append(m.io_apic(ioapic.get("id", index), ioapic["address"], ioapic.get("gsi_base", 0)))
    for iso in spec.get("isos", ()):
        flags, bus = iso.get("flags", 0), iso.get("bus", 0)
        structures.append(m.source_override(iso["source"], iso["gsi"], flags, bus))
    if spec.get("lapic_nmi", True):
        if narrow:
            structures.append(m.local_apic_nmi())
        if wide:
            structures.append(m.local_x2apic_nmi())
    structures += spec.get("madt_extra", ())
    flags = m.PCAT_COMPAT if spec.get("pcat_compat") else 0
    return m.madt(spec.get("lapic_address", 0xFEE0_0000), flags, structures, ids)


def _cpu_affinities(spec: X86Spec) -> list[bytes]:
    from . import numa

    out = []
    for cpu in spec["cpus"]:
        narrow = cpu["apic_id"] < 0xFF and spec.get("apic_mode", "auto") == "auto"
        make = numa.apic_affinity if narrow else numa.x2apic_affinity
        out.append(make(cpu.get("node", 0), cpu["apic_id"]))
    return out


def distinct(what: str, values: list[int]) -> None:
    """Raise ValueError if a value of `what` occurs twice."""
    if len(set(values)) != len(values):
        raise ValueError(f"ACPI machine description: a {what} occurs twice among {values}")


class _Placer:
    """Puts tables one behind another and remembers where."""

    __slots__ = ("address", "data", "tables")

    def __init__(self, address: int) -> None:
        self.address = address
        self.data = bytearray()
        self.tables: list[tuple[str, int, int]] = []

    def add(self, table: bytes) -> int:
        self.data += bytes(-len(self.data) % ALIGN)
        place = self.address + len(self.data)
        signature = table[:4].decode("latin-1") if self.data else "RSDP"
        self.tables.append((signature, place, len(table)))
        self.data += table
        return place
