# SPDX-License-Identifier: Apache-2.0
r"""AML of CPUs that come and go: Cloud Hypervisor's controller `\_SB.PRES`, and the methods of `\_SB.CPUS`.

The controller's registers are 12 bytes of memory: a selector (dword at 0), the selected CPU's status (byte
at 4: present, inserted, to be removed, eject), command (byte at 5) and data (dword at 8), which are not used.
"""

from __future__ import annotations

from . import aml as a
from . import resources as r

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZE = 0xC
SCAN = "\\_SB.CPUS.CSCN"  # for `scan["cpu"]` of a machine description
DEVICE_CHECK, EJECT_REQUEST = 1, 3  # notification values (ACPI 6.5 §5.6.6)
DISABLED = 0xD  # _STA of what is there and not enabled (ACPI 6.5 §6.3.7): all that Arm's CPUs may be


def scan_methods(
    scan: str,
    tell: str,
    count: int,
    name: Callable[[int], str],
    lock: str,
    select: str,
    inserted: str,
    removed: str,
) -> bytes:
    """Methods that go through a controller's units (`scan`) and notify the OS of what is new (`tell`)."""
    def news(flag: str, value: int) -> bytes:
        return a.if_(a.l_equal(flag, 1), a.call(tell, a.LOCAL0, value), a.store(1, flag))

    told = [a.if_(a.l_equal(a.ARG0, n), a.notify(name(n), a.ARG1)) for n in range(count)]
    return a.method(tell, 2, *told, serialized=True) + a.method(
        scan, 0,
        a.acquire(lock),
        a.store(0, a.LOCAL0),
        a.while_(
            a.l_less(a.LOCAL0, count),
            a.store(a.LOCAL0, select),
            news(inserted, DEVICE_CHECK),
            news(removed, EJECT_REQUEST),
            a.increment(a.LOCAL0),
        ),
        a.release(lock),
        serialized=True,
    )


def status_method(name: str, lock: str, select: str, present: str, absent: int = 0) -> bytes:
    """The method that a unit's `_STA` calls with its number: 0xf if it is there, `absent` if not."""
    return a.method(
        name, 1,
        a.acquire(lock),
        a.store(a.ARG0, select),
        a.store(absent, a.LOCAL0),
        a.if_(a.l_equal(present, 1), a.store(0xF, a.LOCAL0)),
        a.release(lock),
        a.return_(a.LOCAL0),
        serialized=True,
    )


def controller(address: int) -> bytes:
    r"""`\_SB.PRES`, whose registers are at a guest-physical address."""
    return a.device(
        "PRES",
        a.name("_HID", a.eisaid("PNP0A06")),
        a.name("_UID", a.string("CPU Hotplug Controller")),
        a.mutex("CPLK"),
        a.name("_CRS", r.template(r.qword_memory(address, address + SIZE - 1, consumer=True))),
        a.op_region("PRST", a.SYSTEM_MEMORY, address, SIZE),
        a.field("PRST", a.offset(4), ("CPEN", 1), ("CINS", 1), ("CRMV", 1), ("CEJ0", 1), ("", 4), ("CCMD", 8),
                update=a.WRITE_AS_ZEROS),
        a.field("PRST", ("CSEL", 32), a.offset(8), ("CDAT", 32), access=a.DWORD_ACC),
    )


def methods(count: int, *, paths: Sequence[str] = (), absent: int = 0) -> bytes:
    r"""What `\_SB.CPUS` needs for `count` possible CPUs (`cpus_aml` of a machine description).

    paths    where their devices are, if not in `\_SB.CPUS` itself
    absent   `_STA` of one that is not there: 0, or DISABLED
    """
    if count > 0x1000:
        raise ValueError(f"{count} CPUs; the names C000..CFFF tell 4096 apart")
    lock, select = "\\_SB.PRES.CPLK", "\\_SB.PRES.CSEL"
    return b"".join((
        status_method("CSTA", lock, select, "\\_SB.PRES.CPEN", absent),
        a.method("CEJ0", 1, a.acquire(lock), a.store(a.ARG0, select), a.store(1, "\\_SB.PRES.CEJ0"),
                 a.release(lock), serialized=True),
        scan_methods("CSCN", "CTFY", count, lambda n: paths[n] if paths else f"C{n:03X}", lock, select,
                     "\\_SB.PRES.CINS", "\\_SB.PRES.CRMV"),
    ))


def processor(index: int, entry: bytes) -> bytes:
    """What goes into the device of CPU `index` (`aml` in `cpus`). `entry`: its MADT structure, enabled."""
    parts = [
        a.method("_STA", 0, a.return_(a.call("CSTA", index))),
        a.name("_MAT", a.buffer(entry)),
    ]
    if index:  # the first is never given back
        parts.append(a.method("_EJ0", 1, a.call("CEJ0", index)))
    return b"".join(parts)
