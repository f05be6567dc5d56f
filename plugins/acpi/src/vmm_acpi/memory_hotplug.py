# SPDX-License-Identifier: Apache-2.0
r"""AML of memory that is plugged in: Cloud Hypervisor's controller `\_SB.MHPC`, a device for each slot.

Its registers are 24 bytes of memory: written at 0, the selector (dword); read, base (qword at 0), size
(qword at 8), proximity domain (dword at 0x10) and status (byte at 0x14: present, inserted, to be removed,
eject) of what is selected.
"""

from __future__ import annotations

from . import aml as a
from . import resources as r
from .cpu_hotplug import scan_methods, status_method

SIZE = 0x18
SLOTS = 8
SCAN = "\\_SB.MHPC.MSCN"  # for `scan["memory"]` of a machine description

# Where minimum, maximum and length are in a QWord address space descriptor (ACPI 6.5 table 6.44)
_MINIMUM, _MAXIMUM, _LENGTH = 14, 22, 38


def controller(address: int, slots: int = SLOTS, node: int | None = None) -> bytes:
    r"""`\_SB.MHPC`, whose registers are at a guest-physical address. `node`: proximity domain of slots."""
    return a.device(
        "MHPC",
        a.name("_HID", a.eisaid("PNP0A06")),
        a.name("_UID", a.string("Memory Hotplug Controller")),
        a.mutex("MLCK"),
        a.name("_CRS", r.template(r.qword_memory(address, address + SIZE - 1, consumer=True))),
        a.op_region("MHPR", a.SYSTEM_MEMORY, address, SIZE),
        a.field(
            "MHPR",
            *(("MHBL", 32), ("MHBH", 32), ("MHLL", 32), ("MHLH", 32), ("MHPX", 32)),
            access=a.DWORD_ACC,
        ),
        a.field(
            "MHPR",
            a.offset(0x14),
            *(("MEN", 1), ("MINS", 1), ("MRMV", 1), ("MEJ0", 1)),
            update=a.WRITE_AS_ZEROS,
        ),
        a.field("MHPR", ("MSEL", 32), access=a.DWORD_ACC, update=a.WRITE_AS_ZEROS),
        status_method("MSTA", "MLCK", "MSEL", "MEN"),
        _resources(),
        *(_slot(n, node) for n in range(slots)),
        scan_methods("MSCN", "MTFY", slots, lambda n: f"M{n:03X}", "MLCK", "MSEL", "MINS", "MRMV"),
    )


def _resources() -> bytes:
    """MCRS: the range of a slot as a resource template."""
    def join_halves(low: str, high: str, target: str) -> bytes:
        return a.or_(a.shift_left(high, 32), low, target)

    return b"".join((
        a.name("MR64", r.template(r.qword_memory(0, (1 << 64) - 2, cacheable=r.CACHEABLE))),
        a.create_qword_field("MR64", _MINIMUM, "MMIN"),
        a.create_qword_field("MR64", _MAXIMUM, "MMAX"),
        a.create_qword_field("MR64", _LENGTH, "MLEN"),
    )) + a.method(
        "MCRS", 1,
        a.acquire("MLCK"),
        a.store(a.ARG0, "MSEL"),
        join_halves("MHBL", "MHBH", "MMIN"),
        join_halves("MHLL", "MHLH", "MLEN"),
        a.release("MLCK"),
        a.subtract(a.add("MMIN", "MLEN"), 1, "MMAX"),
        a.return_("MR64"),
        serialized=True,
    )


def _slot(index: int, node: int | None) -> bytes:
    return a.device(
        f"M{index:03X}",
        a.name("_HID", a.eisaid("PNP0C80")),
        a.name("_UID", index),
        *([] if node is None else [a.name("_PXM", node)]),
        a.method("_STA", 0, a.return_(a.call("MSTA", index))),
        a.method("_CRS", 0, a.return_(a.call("MCRS", index)), serialized=True),
    )
