# SPDX-License-Identifier: Apache-2.0
r"""Devices of a machine's DSDT: host bridges, event device, CPUs, serial ports, GPIO, reservations.

Every function takes a part of the machine description (`vmm_acpi.spec`) and returns AML for `\_SB`.
"""

from __future__ import annotations

from . import aml as a
from . import resources as r

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .arm import Node
    from .spec import ArmSerial, CommonCpu, CommonSpec, Ged, Range, Rtc, Scan, Segment, Serial

ECAM_PER_BUS = 1 << 20  # 32 slots of 8 functions of 4 KiB (PCI Express 5.0 §7.2.2)
OSC_UUID = "33db4d5b-1ff7-401c-9657-7441c03dd766"  # PCI host bridge (PCI Firmware 3.3 §4.5)
DSM_UUID = "e5c937d0-3553-4d7a-9117-ea4d19c3434d"  # PCI device (PCI Firmware 3.3 §4.6)

# _OSC control bits (PCI Firmware 3.3 table 4-6): native hot plug, SHPC hot plug, PME, AER,
# capability structure, LTR, DPC.
OSC_NATIVE_HOTPLUG, OSC_SHPC = 1 << 0, 1 << 1
OSC_ALL = 0xBF

EVENTS = (("cpu", 1), ("memory", 2), ("pci", 4))  # bits of the event register that scan methods serve
POWER_BUTTON_EVENT = 8
PPTT_LEAF = 8  # that of `arm`, which x86 machines do not load


def host_bridge(segment: Segment, spec: CommonSpec) -> bytes:
    """PCI Express root bridge of one segment (ACPI 6.5 §9.12, §6.5.5, §6.5.6)."""
    number = segment["id"]
    if not 0 <= number <= 0xFF:
        raise ValueError(f"PCI segment {number} is outside 0..255")
    first, last = segment.get("buses", (0, 0))
    if not 0 <= first <= last <= 0xFF:
        raise ValueError(f"PCI segment {number}: bus range {first}..{last} is not within 0..255")
    body = [
        a.name("_HID", a.eisaid("PNP0A08")),
        a.name("_CID", a.eisaid("PNP0A03")),
        a.name("_SEG", number),
        a.name("_UID", number),
        a.name("_BBN", first),
        a.name("_CCA", 1),
    ]
    if "node" in segment:
        body.append(a.name("_PXM", segment["node"]))
    body.append(a.name("_CRS", _bridge_windows(segment, first, last)))
    if segment.get("prt"):
        body.append(a.name("_PRT", _routing(segment)))
    control = spec.get("osc_control")
    if control is None:
        # Two drivers must not handle the hot plug of one slot.
        control = OSC_ALL & ~(OSC_NATIVE_HOTPLUG | OSC_SHPC) if spec.get("scan", {}).get("pci") else OSC_ALL
    body.append(osc(control))
    preserve = spec.get("preserve_boot_config")
    if preserve is not None:
        body.append(dsm_boot_config(preserve))
    return a.device(f"PC{number:02X}", *body, segment.get("aml", b""))


def _bridge_windows(segment: Segment, first: int, last: int) -> bytes:
    windows = [r.word_bus(first, last)]
    if segment.get("cf8", segment["id"] == 0):
        windows.append(r.io(0xCF8, 8, align=1))  # PCI 3.0 §3.2.2.3.2: CONFIG_ADDRESS, CONFIG_DATA
    for port, size in segment.get("io", ()):
        windows.append(r.word_io(port, port + size - 1))
    mapped = segment.get("pio")
    if mapped and mapped[1]:
        windows.append(r.dword_io(0, mapped[1] - 1, translation=mapped[0], memory_mapped=True))
    low, high = segment.get("mmio32"), segment.get("mmio64")
    # Not marked prefetchable, so that every kind of BAR may be placed in either window.
    if low:
        windows.append(r.dword_memory(low[0], low[0] + low[1] - 1))
    if high:
        windows.append(r.qword_memory(high[0], high[0] + high[1] - 1))
    return r.template(*windows)


def _routing(segment: Segment) -> bytes:
    """_PRT: slot and pin to a global system interrupt (ACPI 6.5 §6.2.13)."""
    entries = []
    for slot, gsis in segment.get("prt", {}).items():
        if not 0 <= slot < 32:
            raise ValueError(f"PCI segment {segment['id']}: slot {slot} is outside 0..31")
        pins = (gsis,) if isinstance(gsis, int) else gsis
        if len(pins) > 4:
            raise ValueError(f"PCI segment {segment['id']}, slot {slot}: {len(pins)} interrupt pins; 4 exist")
        for pin, gsi in enumerate(pins):
            if gsi is not None:
                entries.append(a.package(slot << 16 | 0xFFFF, pin, 0, gsi))
    return a.package(*entries)


def osc(control: int) -> bytes:
    """_OSC of a host bridge that grants the `control` bits (ACPI 6.5 §6.2.11, PCI Firmware 3.3 §4.5.1)."""
    return a.method(
        "_OSC",
        4,
        a.create_dword_field(a.ARG3, 0, "CDW1"),
        a.if_(
            a.l_equal(a.ARG0, a.uuid(OSC_UUID)),
            a.create_dword_field(a.ARG3, 8, "CDW3"),
            a.if_(a.l_not_equal(a.ARG1, 1), a.or_("CDW1", 8, "CDW1")),  # revision not known
            a.and_("CDW3", control, a.LOCAL0),
            a.if_(a.l_not_equal("CDW3", a.LOCAL0), a.or_("CDW1", 0x10, "CDW1")),  # capabilities masked
            a.store(a.LOCAL0, "CDW3"),
        ),
        a.else_(a.or_("CDW1", 4, "CDW1")),  # UUID not known
        a.return_(a.ARG3),
        serialized=True,
    )


def dsm_boot_config(preserve: bool) -> bytes:
    """_DSM with function 5: 0 asks the OS to keep the firmware's PCI resources (PCI Firmware 3.3 §4.6.5)."""
    return a.method(
        "_DSM",
        4,
        a.if_(
            a.l_equal(a.ARG0, a.uuid(DSM_UUID)),
            a.if_(a.l_equal(a.ARG2, 0), a.return_(a.buffer(b"\x21"))),
            a.if_(a.l_equal(a.ARG2, 5), a.return_(0 if preserve else 1)),
        ),
        a.return_(a.buffer(b"\x00")),
    )


def motherboard(spec: CommonSpec) -> bytes:
    """PNP0C02 device that reserves every ECAM and the caller's ranges (PCI Firmware 3.3 §4.1.2)."""
    ranges: list[Range] = []
    for segment in spec["segments"]:
        first, last = segment.get("buses", (0, 0))
        ranges.append((segment["ecam"] + first * ECAM_PER_BUS, (last - first + 1) * ECAM_PER_BUS))
    ranges += spec.get("reserved", ())
    reserved = []
    for base, size in ranges:
        if base + size <= 1 << 32:
            reserved.append(r.memory32_fixed(base, size))
        else:
            reserved.append(r.qword_memory(base, base + size - 1, consumer=True))
    for port, size in spec.get("reserved_io", ()):
        reserved.append(r.io(port, size, align=1))
    if not reserved:
        return b""
    return a.device(
        "MBRD", a.name("_HID", a.eisaid("PNP0C02")), a.name("_UID", 0), a.name("_CRS", r.template(*reserved))
    )


def event_device(ged: Ged, scan: Scan) -> bytes:
    """Generic event device and the power button that it notifies (ACPI 6.5 §5.6.9, §4.8.2.2.1.2).

    Reading the 1-byte register gives the pending events and clears them; the line is high while there are
    some.
    """
    handlers = []
    for key, bit in EVENTS:
        path = scan.get(key)
        if isinstance(path, str):
            handlers.append(a.if_(a.and_(a.LOCAL0, bit), a.call(path)))
    handlers.append(a.if_(a.and_(a.LOCAL0, POWER_BUTTON_EVENT), a.notify("PWRB", 0x80)))
    return a.device("PWRB", a.name("_HID", a.eisaid("PNP0C0C")), a.name("_UID", 0)) + a.device(
        "GED",
        a.name("_HID", a.string("ACPI0013")),
        a.name("_UID", 0),
        a.name("_CRS", r.template(r.interrupt(ged["gsi"]))),
        a.op_region("GREG", a.SYSTEM_MEMORY, ged["address"], 1),
        a.field("GREG", ("GDAT", 8), update=a.WRITE_AS_ZEROS),
        a.method("_EVT", 1, a.store("GDAT", a.LOCAL0), *handlers, serialized=True),
    )


def processors(cpus: Sequence[CommonCpu], container_aml: bytes, tree: Sequence[Node] = ()) -> bytes:
    """Processor container with one device per possible vCPU (ACPI 6.5 §8.4, §8.4.3).

    `tree` (`vmm_acpi.arm.processor_tree`) puts them in containers of their own, one for each inner
    node; the outermost stands for the package if there is one only.
    """
    if len(cpus) > 0x1000:
        raise ValueError(f"{len(cpus)} CPUs; the names C000..CFFF tell 4096 apart")
    body = []
    for index, cpu in enumerate(cpus):
        inner = cpu.get("aml", b"")
        if not inner and not cpu.get("enabled", True):
            inner = a.name("_STA", 0)
        node = a.name("_PXM", cpu["node"]) if "node" in cpu else b""
        uid = a.name("_UID", cpu.get("uid", index))
        body.append(a.device(f"C{index:03X}", a.name("_HID", a.string("ACPI0007")), uid, node, inner))
    if not tree:
        return _container("CPUS", 0, container_aml, *body)
    inside = [b""] * (len(tree) + 1)  # the last is that of parent -1: what no node contains
    containers = len(tree) - len(body)
    for place in range(len(tree) - 1, -1, -1):
        parent, flags, number = tree[place]
        leaf = flags & PPTT_LEAF
        device = body.pop() if leaf else _container(f"P{number:03X}", number, inside[place])
        inside[parent] = device + inside[parent]
    if sum(parent == -1 for parent, _, _ in tree) == 1:
        return _container("CPUS", tree[0][2], container_aml, inside[0])
    return _container("CPUS", containers, container_aml, inside[-1])


def _container(name: str, uid: int, *body: bytes) -> bytes:
    """Processor container ACPI0010 (ACPI 6.5 §8.4.3)."""
    head = (a.name("_HID", a.string("ACPI0010")), a.name("_CID", a.eisaid("PNP0A05")), a.name("_UID", uid))
    return a.device(name, *head, *body)


def serial_port(index: int, serial: Serial) -> bytes:
    """16550-compatible port PNP0501 (ACPI 6.5 §6.1.5 for _HID, §6.4.2.5, §6.4.3.6)."""
    # A global system interrupt with its trigger mode, as no 8259 stands behind an ISA IRQ number.
    resources = r.template(
        r.interrupt(serial["irq"], edge=True), r.io(serial["port"], serial.get("size", 8), align=1)
    )
    return a.device(
        f"COM{index + 1:X}",
        a.name("_HID", a.eisaid("PNP0501")),
        a.name("_UID", index),
        a.name("_DDN", a.string(f"COM{index + 1}")),
        a.name("_CRS", resources),
    )


def rtc_clock(rtc: Rtc) -> bytes:
    """CMOS clock PNP0B00 (ACPI 6.5 §9.15)."""
    resources = [r.io(rtc["port"], rtc.get("size", 2), align=1)]
    irq = rtc.get("irq")
    if irq is not None:
        resources.append(r.interrupt(irq, edge=True))
    return a.device("RTC", a.name("_HID", a.eisaid("PNP0B00")), a.name("_CRS", r.template(*resources)))


def pl011(index: int, serial: ArmSerial) -> bytes:
    """Arm serial port with the PL011's registers (ARMH0011, ARM DEN 0094)."""
    name = f"COM{index + 1:X}"
    return _arm_device(name, "ARMH0011", index, serial, a.name("_DDN", a.string(name)))


def pl061(gpio: ArmSerial) -> bytes:
    """Arm GPIO controller PL061."""
    return _arm_device("GPI0", "ARMH0061", 0, gpio)


def _arm_device(name: str, hid: str, uid: int, where: ArmSerial, *body: bytes) -> bytes:
    registers = r.memory32_fixed(where["address"], 0x1000)
    resources = a.name("_CRS", r.template(registers, r.interrupt(where["gsi"])))  # level, active high
    return a.device(name, a.name("_HID", a.string(hid)), a.name("_UID", uid), *body, resources)
