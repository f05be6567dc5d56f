# SPDX-License-Identifier: Apache-2.0
r"""PCI devices that come and go (ACPI 6.5 §6.3): one device for each slot, and the controller `\_SB.PHPR`.

The controller's registers, 16 bytes: slots of the selected segment that got a device (a read clears), slots
whose device shall go (likewise), slots that the guest has ejected (written), the segment.
"""

from __future__ import annotations

from . import aml as a

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from .encoding import Term
    from .spec import CommonSpec, Scan, Segment

    Spec = TypeVar("Spec", bound=CommonSpec)

SIZE = 16
SLOTS = 32
SCAN = "\\_SB.PHPR.PSCN"
# What stands for a slot in the AML that all slots share: encoding each anew takes half a millisecond.
NAME, SLOT = b"SLOT", b"\xee"
_BYTE, _DWORD = b"\x0a", b"\x0c"  # prefixes of constants (ACPI 6.5 §20.2.3)
DEVICE_CHECK, EJECT_REQUEST = 1, 3  # notifications (ACPI 6.5 table 5.160)


def with_slots(spec: Spec) -> Spec:
    """The description with slots in its segments, and the scan method for the event device."""
    segments = [{**segment, "aml": slots(segment) + segment.get("aml", b"")} for segment in spec["segments"]]
    common: CommonSpec = spec
    scan: Scan = {**common.get("scan", {}), "pci": SCAN}
    return {**spec, "segments": segments, "scan": scan}  # type: ignore[return-value]


def slots(segment: Segment) -> bytes:
    """A device for each slot; DVNT notifies those of a bitmap, PCNT those that the controller names.

    Slot 0 of segment 0 is the host bridge's.
    """
    number = segment["id"]
    marked = _device(NAME, _BYTE + SLOT, _DWORD + b"\0\0" + SLOT + b"\0", number)
    devices, notifications = b"", b""
    for slot in range(0 if number else 1, SLOTS):
        name = b"S%03d" % slot
        if slot < 2:  # shorter constants
            devices += _device(name, slot, slot << 16, number)
        else:
            devices += marked.replace(NAME, name).replace(SLOT, bytes((slot,)), 3)
        notifications += a.if_(a.and_(a.ARG0, 1 << slot), b"\x86" + name + a.ARG1)  # a.notify(name, a.ARG1)
    scan = a.method(
        "PCNT",
        0,
        a.acquire("\\_SB.PHPR.BLCK"),
        a.store(number, "\\_SB.PHPR.PSEG"),
        a.call("DVNT", "\\_SB.PHPR.PCIU", DEVICE_CHECK),
        a.call("DVNT", "\\_SB.PHPR.PCID", EJECT_REQUEST),
        a.release("\\_SB.PHPR.BLCK"),
        serialized=True,
    )
    return devices + a.method("DVNT", 2, notifications, serialized=True) + scan


def _device(name: bytes, slot: Term, address: Term, segment: int) -> bytes:
    eject = a.call("\\_SB.PHPR.PCEJ", slot, segment)
    return a.device(
        name.decode(),
        a.name("_SUN", slot),
        a.name("_ADR", address),
        a.method("_EJ0", 1, eject, serialized=True),
    )


def controller(address: int, segments: Sequence[Segment]) -> bytes:
    r"""`\_SB.PHPR`: PCEJ(slot, segment) ejects, PSCN looks at all segments."""
    return a.device(
        "PHPR",
        a.name("_HID", a.eisaid("PNP0A06")),
        a.name("_UID", a.string("PCI hot plug")),
        a.name("_STA", 0x0B),  # present, enabled, not shown, functioning
        a.mutex("BLCK"),
        a.op_region("PCST", a.SYSTEM_MEMORY, address, SIZE),
        a.field(
            "PCST",
            ("PCIU", 32),
            ("PCID", 32),
            ("B0EJ", 32),
            ("PSEG", 32),
            access=a.DWORD_ACC,
            update=a.WRITE_AS_ZEROS,
        ),
        a.method(
            "PCEJ",
            2,
            a.acquire("BLCK"),
            a.store(a.ARG1, "PSEG"),
            a.shift_left(1, a.ARG0, "B0EJ"),
            a.release("BLCK"),
            serialized=True,
        ),
        a.method("PSCN", 0, *(a.call(f"\\_SB.PC{s['id']:02X}.PCNT") for s in segments), serialized=True),
    )
