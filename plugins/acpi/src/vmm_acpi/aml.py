# SPDX-License-Identifier: Apache-2.0
r"""AML encoder: nestable functions that return bytes (ACPI 6.5 §20).

    device("PCI0", name("_HID", eisaid("PNP0A08")), method("_STA", 0, return_(15)))

Operands are `bytes` (finished AML), `int` (an integer constant in its shortest form) or `str`
(a name path such as `\_SB.PC00`; text is `string("…")`).  A malformed name or a value that does
not fit raises ValueError.  This module has the named objects and re-exports constants and data
(`vmm_acpi.encoding`), statements and expressions (`vmm_acpi.operators`).
"""

from __future__ import annotations

from .encoding import *  # noqa: F403  (the public face of the encoder)
from .encoding import join, name_path, name_seg, packaged, raw_pkg_length, term
from .operators import *  # noqa: F403

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .encoding import Term

# Address spaces of an operation region (ACPI 6.5 §5.5.2.4, table 5.185)
SYSTEM_MEMORY, SYSTEM_IO, PCI_CONFIG = 0, 1, 2
# Access types of a field (ACPI 6.5 §20.2.5.2, FieldFlags bits 0-3)
ANY_ACC, BYTE_ACC, WORD_ACC, DWORD_ACC, QWORD_ACC, BUFFER_ACC = range(6)
# What a write does to the bits of the access unit outside the field (FieldFlags bits 5-6)
PRESERVE, WRITE_AS_ONES, WRITE_AS_ZEROS = 0, 1, 2

_OFFSET = "@"


def scope(path: str, *body: Term) -> bytes:
    """Scope: open the namespace at `path` (DefScope, ACPI 6.5 §20.2.5.1)."""
    return packaged(b"\x10", name_path(path) + join(body))


def device(path: str, *body: Term) -> bytes:
    """Device object (DefDevice, ACPI 6.5 §20.2.5.2)."""
    return packaged(b"\x5b\x82", name_path(path) + join(body))


def thermal_zone(path: str, *body: Term) -> bytes:
    """ThermalZone object (DefThermalZone, ACPI 6.5 §20.2.5.2)."""
    return packaged(b"\x5b\x85", name_path(path) + join(body))


def power_resource(path: str, level: int, order: int, *body: Term) -> bytes:
    """PowerResource: deepest system sleep state and ordering (DefPowerRes, ACPI 6.5 §20.2.5.2)."""
    head = name_path(path) + _in_range(level, 0xFF, "power resource level").to_bytes(1, "little")
    return packaged(b"\x5b\x84", head + _in_range(order, 0xFFFF, "order").to_bytes(2, "little") + join(body))


def name(path: str, value: Term) -> bytes:
    """Name: a named data object (DefName, ACPI 6.5 §20.2.5.1)."""
    return b"\x08" + name_path(path) + term(value)


def alias(source: str, path: str) -> bytes:
    """Alias: `path` becomes a second name of `source` (DefAlias, ACPI 6.5 §20.2.5.1)."""
    return b"\x06" + name_path(source) + name_path(path)


def external(path: str, kind: int = 0, arguments: int = 0) -> bytes:
    """External: an object of another table; `kind` is an ObjectType number (ACPI 6.5 §20.2.5.1, §19.6.95)."""
    tail = (_in_range(kind, 0xFF, "object type"), _in_range(arguments, 7, "argument count"))
    return b"\x15" + name_path(path) + bytes(tail)


def method(path: str, arguments: int, *body: Term, serialized: bool = False, sync_level: int = 0) -> bytes:
    """Method of 0 to 7 arguments (DefMethod, ACPI 6.5 §20.2.5.2).

    A method that creates named objects should be `serialized`.
    """
    flags = _in_range(arguments, 7, "argument count") | _in_range(sync_level, 15, "sync level") << 4
    return packaged(b"\x14", name_path(path) + bytes((flags | serialized << 3,)) + join(body))


def mutex(path: str, sync_level: int = 0) -> bytes:
    """Mutex object (DefMutex, ACPI 6.5 §20.2.5.2)."""
    return b"\x5b\x01" + name_path(path) + bytes((_in_range(sync_level, 15, "sync level"),))


def event(path: str) -> bytes:
    """Event object (DefEvent, ACPI 6.5 §20.2.5.2)."""
    return b"\x5b\x02" + name_path(path)


def op_region(path: str, space: int, offset: Term, length: Term) -> bytes:
    """OperationRegion: `length` bytes at `offset` of an address space (DefOpRegion, ACPI 6.5 §20.2.5.2)."""
    space_byte = bytes((_in_range(space, 0xFF, "address space"),))
    return b"\x5b\x80" + name_path(path) + space_byte + term(offset) + term(length)


def offset(byte_offset: int) -> tuple[str, int]:
    """Field element that moves the position to a byte offset (ACPI 6.5 §19.6.48, Offset)."""
    return _OFFSET, byte_offset


def field(
    region: str,
    *elements: tuple[str, int],
    access: int = BYTE_ACC,
    lock: bool = False,
    update: int = PRESERVE,
) -> bytes:
    """Field units of a region (DefField, ACPI 6.5 §20.2.5.2).

    An element is `(name, bits)`, `("", bits)` for reserved bits, or `offset(byte)`.
    """
    flags = _field_flags(access, lock, update)
    return packaged(b"\x5b\x81", name_path(region) + flags + _field_list(elements))


def index_field(
    index: str,
    data: str,
    *elements: tuple[str, int],
    access: int = BYTE_ACC,
    lock: bool = False,
    update: int = PRESERVE,
) -> bytes:
    """Field units reached through an index and a data field (DefIndexField, ACPI 6.5 §20.2.5.2)."""
    head = name_path(index) + name_path(data) + _field_flags(access, lock, update)
    return packaged(b"\x5b\x86", head + _field_list(elements))


def bank_field(
    region: str,
    bank: str,
    value: Term,
    *elements: tuple[str, int],
    access: int = BYTE_ACC,
    lock: bool = False,
    update: int = PRESERVE,
) -> bytes:
    """Field units valid while `bank` holds `value` (DefBankField, ACPI 6.5 §20.2.5.2)."""
    head = name_path(region) + name_path(bank) + term(value) + _field_flags(access, lock, update)
    return packaged(b"\x5b\x87", head + _field_list(elements))


def _field_flags(access: int, lock: bool, update: int) -> bytes:
    _in_range(access, BUFFER_ACC, "field access type")
    _in_range(update, WRITE_AS_ZEROS, "field update rule")
    return bytes((access | lock << 4 | update << 5,))


def _field_list(elements: tuple[tuple[str, int], ...]) -> bytes:
    out = bytearray()
    position = 0  # in bits
    for element, size in elements:
        if element == _OFFSET:
            skipped = size * 8 - position
            if skipped < 0:
                raise ValueError(f"AML field offset {size:#x} lies before bit {position}")
            element, size = "", skipped
        out += (name_seg(element) if element else b"\x00") + raw_pkg_length(size)
        position += size
    return bytes(out)


def create_field(source: Term, bit: Term, bits: Term, path: str) -> bytes:
    """CreateField: `bits` bits of a buffer from bit index `bit` (DefCreateField, ACPI 6.5 §20.2.5.2)."""
    return b"\x5b\x13" + term(source) + term(bit) + term(bits) + name_path(path)


def create_bit_field(source: Term, bit: Term, path: str) -> bytes:
    """CreateBitField: one bit of a buffer (DefCreateBitField, ACPI 6.5 §20.2.5.2)."""
    return b"\x8d" + term(source) + term(bit) + name_path(path)


def create_byte_field(source: Term, index: Term, path: str) -> bytes:
    """CreateByteField: 8 bits of a buffer at a byte index (DefCreateByteField, ACPI 6.5 §20.2.5.2)."""
    return b"\x8c" + term(source) + term(index) + name_path(path)


def create_word_field(source: Term, index: Term, path: str) -> bytes:
    """CreateWordField: 16 bits of a buffer at a byte index (DefCreateWordField, ACPI 6.5 §20.2.5.2)."""
    return b"\x8b" + term(source) + term(index) + name_path(path)


def create_dword_field(source: Term, index: Term, path: str) -> bytes:
    """CreateDWordField: 32 bits of a buffer at a byte index (DefCreateDWordField, ACPI 6.5 §20.2.5.2)."""
    return b"\x8a" + term(source) + term(index) + name_path(path)


def create_qword_field(source: Term, index: Term, path: str) -> bytes:
    """CreateQWordField: 64 bits of a buffer at a byte index (DefCreateQWordField, ACPI 6.5 §20.2.5.2)."""
    return b"\x8f" + term(source) + term(index) + name_path(path)


def _in_range(value: int, last: int, what: str) -> int:
    if not 0 <= value <= last:
        raise ValueError(f"AML {what} {value} is outside 0..{last}")
    return value
