# SPDX-License-Identifier: Apache-2.0
"""AML data: package lengths, names, constants, buffers and packages (ACPI 6.5 §20.2.1-§20.2.3, §20.2.5.4).

An operand (`Term`) is `bytes` (finished AML), `int` (an integer constant) or `str` (a name path;
text is made with `string`).  Callers use `vmm_acpi.aml`, which re-exports these functions.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Term: TypeAlias = bytes | int | str

ZERO = b"\x00"
ONE = b"\x01"
ONES = b"\xff"
U64_MAX = 0xFFFF_FFFF_FFFF_FFFF

_LEAD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_HEX = frozenset("0123456789ABCDEF")
_REST = _LEAD | frozenset("0123456789")


def raw_pkg_length(value: int) -> bytes:
    """Encode `value` as a PkgLength, without adding the size of the encoding (ACPI 6.5 §20.2.4).

    This is the form that field elements use for their bit counts.  Raises ValueError beyond 28 bits.
    """
    if 0 <= value < 0x40:
        return bytes((value,))
    if value < 0 or value >= 1 << 28:
        raise ValueError(f"AML package length {value} is outside 0..{(1 << 28) - 1}")
    if value < 1 << 12:
        return bytes((0x40 | value & 15, value >> 4))
    if value < 1 << 20:
        return bytes((0x80 | value & 15, value >> 4 & 0xFF, value >> 12))
    return bytes((0xC0 | value & 15, value >> 4 & 0xFF, value >> 12 & 0xFF, value >> 20))


def pkg_length(body_size: int) -> bytes:
    """PkgLength of a package with a body of `body_size` bytes; it counts itself (ACPI 6.5 §20.2.4)."""
    if body_size < 0x3F:
        return raw_pkg_length(body_size + 1)
    if body_size < (1 << 12) - 2:
        return raw_pkg_length(body_size + 2)
    if body_size < (1 << 20) - 3:
        return raw_pkg_length(body_size + 3)
    return raw_pkg_length(body_size + 4)


def packaged(opcode: bytes, body: bytes) -> bytes:
    """`opcode`, the length of `body`, `body`: the shape of every AML object with a PkgLength."""
    return opcode + pkg_length(len(body)) + body


def name_seg(text: str) -> bytes:
    """A NameSeg: one to four characters of A-Z, 0-9 and _, padded with _ (ACPI 6.5 §20.2.2)."""
    if not 0 < len(text) <= 4 or text[0] not in _LEAD or not _REST.issuperset(text):
        raise ValueError(f"AML name segment {text!r}: one to four of A-Z, 0-9, _, not starting with a digit")
    return text.ljust(4, "_").encode()


def name_path(text: str) -> bytes:
    r"""A NameString such as `\_SB.PC00._STA`, `^^FOO` or `\` (ACPI 6.5 §20.2.2).

    Raises ValueError for a malformed path or one of more than 255 segments.
    """
    rest = text.lstrip("^")
    prefix = text[: len(text) - len(rest)]
    if rest[:1] == "\\":
        if prefix:
            raise ValueError(f"AML name path {text!r} has both \\ and ^")
        prefix, rest = "\\", rest[1:]
    head = prefix.encode()
    if not rest:
        if not head:
            raise ValueError("AML name path is empty")
        return head + b"\x00"
    segments = rest.split(".")
    count = len(segments)
    if count == 1:
        return head + name_seg(rest)
    if count == 2:
        return head + b"\x2e" + name_seg(segments[0]) + name_seg(segments[1])
    if count > 255:
        raise ValueError(f"AML name path of {count} segments; at most 255 fit")
    return head + bytes((0x2F, count)) + b"".join([name_seg(part) for part in segments])


def byte(value: int) -> bytes:
    """ByteConst: an 8-bit constant in its fixed-width form (ACPI 6.5 §20.2.3)."""
    return b"\x0a" + _fixed(value, 1)


def word(value: int) -> bytes:
    """WordConst: a 16-bit constant in its fixed-width form (ACPI 6.5 §20.2.3)."""
    return b"\x0b" + _fixed(value, 2)


def dword(value: int) -> bytes:
    """DWordConst: a 32-bit constant in its fixed-width form (ACPI 6.5 §20.2.3)."""
    return b"\x0c" + _fixed(value, 4)


def qword(value: int) -> bytes:
    """QWordConst: a 64-bit constant in its fixed-width form (ACPI 6.5 §20.2.3)."""
    return b"\x0e" + _fixed(value, 8)


def _fixed(value: int, size: int) -> bytes:
    if not 0 <= value < 1 << 8 * size:
        raise ValueError(f"AML constant {value:#x} does not fit in {size} byte(s)")
    return value.to_bytes(size, "little")


def integer(value: int) -> bytes:
    """The shortest ComputationalData for an unsigned integer of up to 64 bits (ACPI 6.5 §20.2.3)."""
    if 0 <= value < 0x100:
        return bytes((10, value)) if value > 1 else bytes((value,))
    if 0 < value < 0x1_0000:
        return b"\x0b" + value.to_bytes(2, "little")
    if 0 < value < 0x1_0000_0000:
        return b"\x0c" + value.to_bytes(4, "little")
    return qword(value) if value != U64_MAX else ONES


def term(value: Term) -> bytes:
    """The bytes of an operand: AML as it is, an integer constant, or a name path."""
    if isinstance(value, bytes):
        return value
    return integer(value) if isinstance(value, int) else name_path(value)


def join(items: tuple[Term, ...]) -> bytes:
    """The operands one behind another: a TermList or an argument list."""
    return b"".join([item if isinstance(item, bytes) else term(item) for item in items])


def string(text: str) -> bytes:
    """String: NUL-terminated 7-bit ASCII, without NUL inside (ACPI 6.5 §20.2.3)."""
    if not text.isascii() or "\0" in text:
        raise ValueError(f"AML string {text!r}: only ASCII without NUL")
    return b"\x0d" + text.encode() + b"\x00"


def buffer(data: bytes = b"", size: Term | None = None) -> bytes:
    """Buffer with `data`; `size` in bytes defaults to the length of the data (ACPI 6.5 §20.2.5.4)."""
    return packaged(b"\x11", term(len(data) if size is None else size) + data)


def package(*elements: Term, count: int | None = None) -> bytes:
    """Package of up to 255 elements; a larger `count` leaves the rest uninitialised (ACPI 6.5 §20.2.5.4)."""
    number = len(elements) if count is None else count
    if not len(elements) <= number <= 255:
        raise ValueError(
            f"AML package of {len(elements)} elements, declared {number}; above 255 use var_package"
        )
    return packaged(b"\x12", bytes((number,)) + join(elements))


def var_package(count: Term, *elements: Term) -> bytes:
    """VarPackage: a package whose number of elements is a term (ACPI 6.5 §20.2.5.4)."""
    return packaged(b"\x13", term(count) + join(elements))


def eisaid(text: str) -> bytes:
    """EISAID("PNP0A08"): three letters and four hex digits packed in a DWord (ACPI 6.5 §19.6.37)."""
    letters, digits = text[:3], text[3:]
    good = all("A" <= c <= "Z" for c in letters) and _HEX.issuperset(digits)
    if len(text) != 7 or not good:
        raise ValueError(f"EISA id {text!r}: three capital letters and four hex digits")
    value = 0
    for letter in letters:
        value = value << 5 | ord(letter) - 0x40
    return b"\x0c" + (value << 16 | int(digits, 16)).to_bytes(4, "big")


def uuid(text: str) -> bytes:
    """ToUUID("aabbccdd-eeff-gghh-iijj-kkllmmnnoopp"): a 16-byte buffer (ACPI 6.5 §19.6.142)."""
    parts = text.split("-")
    if [len(part) for part in parts] != [8, 4, 4, 4, 12]:
        raise ValueError(f"UUID {text!r}: 8-4-4-4-12 hex digits")
    try:
        groups = [bytes.fromhex(part) for part in parts]
    except ValueError:
        raise ValueError(f"UUID {text!r}: 8-4-4-4-12 hex digits") from None
    return buffer(groups[0][::-1] + groups[1][::-1] + groups[2][::-1] + groups[3] + groups[4])
