# SPDX-License-Identifier: Apache-2.0
"""Resource descriptors for _CRS, _PRS and _SRS (ACPI 6.5 §6.4).

Each descriptor function returns bytes; `template` joins them in the buffer that _CRS returns.
Ranges are given as first and last address, both included; sizes are in bytes.
Values that do not fit raise ValueError.
"""

from __future__ import annotations

from .encoding import buffer

# Memory attributes, type-specific flags bits 1-2 (ACPI 6.5 §6.4.3.5.5, table 6.49)
NON_CACHEABLE, CACHEABLE, WRITE_COMBINING, PREFETCHABLE = range(4)

_MEMORY, _IO, _BUS = range(3)
_ADDRESS_TAG = {2: 0x88, 4: 0x87, 8: 0x8A}  # by width of the addresses, in bytes
_ENTIRE_IO_RANGE = 3
_TYPE_TRANSLATION = 0x10  # _TTP: ports on the bus, memory on the processor's side


def template(*descriptors: bytes, checksum: bool = True) -> bytes:
    """Buffer with the descriptors and the end tag (ACPI 6.5 §6.4.2.9).

    With `checksum=False` the end tag holds 0, which readers take as valid; ASL compilers write that.
    """
    data = b"".join(descriptors) + b"\x79"
    return buffer(data + bytes((-sum(data) & 0xFF if checksum else 0,)))


def memory32_fixed(base: int, size: int, writable: bool = True) -> bytes:
    """Fixed 32-bit memory range (ACPI 6.5 §6.4.3.4)."""
    _check(0 <= base and size > 0 and base + size <= 1 << 32, "32-bit memory range", base, base + size - 1)
    return bytes((0x86, 9, 0, int(writable))) + base.to_bytes(4, "little") + size.to_bytes(4, "little")


def io(port: int, size: int, align: int = 0) -> bytes:
    """I/O ports at one fixed place, 16-bit decoding (ACPI 6.5 §6.4.2.5)."""
    last = port + size - 1
    _check(0 <= port <= last <= 0xFFFF and size <= 0xFF and 0 <= align <= 0xFF, "I/O port range", port, last)
    place = port.to_bytes(2, "little")
    return b"\x47\x01" + place + place + bytes((align, size))


def irq_no_flags(*irqs: int) -> bytes:
    """IRQ descriptor without flags: edge, active high, exclusive; IRQs 0-15 (ACPI 6.5 §6.4.2.1)."""
    mask = 0
    for irq in irqs:
        _check(0 <= irq <= 15, "ISA interrupt", irq, irq)
        mask |= 1 << irq
    return b"\x22" + mask.to_bytes(2, "little")


def interrupt(
    *gsis: int,
    edge: bool = False,
    active_low: bool = False,
    shared: bool = False,
    consumer: bool = True,
    wake: bool = False,
) -> bytes:
    """Extended interrupt descriptor for global system interrupts (ACPI 6.5 §6.4.3.6)."""
    _check(0 < len(gsis) <= 255 and min(gsis) >= 0 and max(gsis) < 1 << 32, "interrupt list", len(gsis), 255)
    flags = consumer | edge << 1 | active_low << 2 | shared << 3 | wake << 4
    head = b"\x89" + (2 + 4 * len(gsis)).to_bytes(2, "little") + bytes((flags, len(gsis)))
    return head + b"".join([gsi.to_bytes(4, "little") for gsi in gsis])


def word_bus(first: int, last: int, consumer: bool = False) -> bytes:
    """Range of PCI bus numbers (WordBusNumber, ACPI 6.5 §6.4.3.5.3)."""
    return _address(2, _BUS, 0, first, last, 0, consumer)


def word_io(first: int, last: int, translation: int = 0, consumer: bool = False) -> bytes:
    """16-bit I/O port window (WordIO, ACPI 6.5 §6.4.3.5.3)."""
    return _address(2, _IO, _ENTIRE_IO_RANGE, first, last, translation, consumer)


def dword_io(
    first: int, last: int, translation: int = 0, consumer: bool = False, memory_mapped: bool = False
) -> bytes:
    """32-bit I/O window (DWordIO, ACPI 6.5 §6.4.3.5.2).

    `memory_mapped`: the processor reaches the ports in its memory, `translation` further on (§6.4.3.5.5).
    """
    flags = _ENTIRE_IO_RANGE | (_TYPE_TRANSLATION if memory_mapped else 0)
    return _address(4, _IO, flags, first, last, translation, consumer)


def qword_io(first: int, last: int, translation: int = 0, consumer: bool = False) -> bytes:
    """64-bit I/O window (QWordIO, ACPI 6.5 §6.4.3.5.1)."""
    return _address(8, _IO, _ENTIRE_IO_RANGE, first, last, translation, consumer)


def dword_memory(
    first: int,
    last: int,
    cacheable: int = NON_CACHEABLE,
    writable: bool = True,
    consumer: bool = False,
    translation: int = 0,
) -> bytes:
    """32-bit memory window (DWordMemory, ACPI 6.5 §6.4.3.5.2)."""
    return _address(4, _MEMORY, writable | cacheable << 1, first, last, translation, consumer)


def qword_memory(
    first: int,
    last: int,
    cacheable: int = NON_CACHEABLE,
    writable: bool = True,
    consumer: bool = False,
    translation: int = 0,
) -> bytes:
    """64-bit memory window (QWordMemory, ACPI 6.5 §6.4.3.5.1)."""
    return _address(8, _MEMORY, writable | cacheable << 1, first, last, translation, consumer)


def _address(
    width: int, kind: int, flags: int, first: int, last: int, translation: int, consumer: bool
) -> bytes:
    limit = 1 << 8 * width
    length = last - first + 1
    # A length of 2^width does not fit its field, so such a range cannot be told.
    good = 0 <= first <= last < limit and length < limit and 0 <= translation < limit
    _check(good, f"{8 * width}-bit address window", first, last)
    fixed = 0x0C  # neither end may be moved
    out = bytes((_ADDRESS_TAG[width], 3 + 5 * width, 0, kind, fixed | consumer, flags))
    values = (0, first, last, translation, length)
    return out + b"".join([value.to_bytes(width, "little") for value in values])


def _check(good: bool, what: str, first: int, last: int) -> None:
    if not good:
        raise ValueError(f"ACPI resource: {what} {first:#x}..{last:#x} does not fit the descriptor")
