# SPDX-License-Identifier: Apache-2.0
"""Encodings that the specification gives byte for byte; a reader written apart decodes the lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmm_acpi import aml as a


def decode_length(data: bytes) -> tuple[int, int]:
    """PkgLength by the rules of ACPI 6.5 §20.2.4: (value, bytes used)."""
    more = data[0] >> 6
    if more == 0:
        return data[0] & 0x3F, 1
    assert data[0] & 0x30 == 0, "bits 4-5 are reserved when more bytes follow"
    value = data[0] & 0x0F
    for n in range(more):
        value |= data[1 + n] << (4 + 8 * n)
    return value, 1 + more


@pytest.mark.parametrize(
    ("body", "used"),
    [
        *((0, 1), (1, 1), (0x3D, 1), (0x3E, 1), (0x3F, 2), (0x40, 2)),
        *((0xFFC, 2), (0xFFD, 2), (0xFFE, 3), (0xFFF, 3), (0x1000, 3)),
        *((0xFFFFB, 3), (0xFFFFC, 3), (0xFFFFD, 4), (0xFFFFE, 4), (0x100000, 4), (0xFFFFFFB, 4)),
    ],
)
def test_package_length_counts_itself_in_the_shortest_form(body: int, used: int) -> None:
    assert decode_length(a.pkg_length(body)) == (body + used, used)
    assert len(a.pkg_length(body)) == used


def test_package_length_ends_at_28_bits() -> None:
    with pytest.raises(ValueError, match="package length"):
        a.pkg_length(0xFFFFFFC)


@pytest.mark.parametrize("bits", [0, 1, 0x3F, 0x40, 0xFFF, 0x1000, 0xFFFFF, 0x100000, 0xFFFFFFF])
def test_field_bit_counts_do_not_count_themselves(bits: int) -> None:
    unit = a.field("R", ("F", bits))
    start = unit.index(b"F___") + 4
    assert decode_length(unit[start:]) == (bits, len(unit) - start)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((0, "00"), (1, "01"), (2, "0a02"), (0xFF, "0aff"), (0x100, "0b0001"), (0xFFFF, "0bffff")),
        *((0x1_0000, "0c00000100"), (0xFFFF_FFFF, "0cffffffff"), (1 << 32, "0e0000000001000000")),
        *(((1 << 64) - 2, "0efeffffffffffffff"), ((1 << 64) - 1, "ff")),
    ],
)
def test_integers_take_the_shortest_form(value: int, expected: str) -> None:
    assert a.integer(value).hex() == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *(("A", b"A___"), ("_SB", b"_SB_"), ("\\", b"\\\0"), ("^", b"^\0"), ("\\_SB", b"\\_SB_")),
        *(("^^AB.C", b"^^\x2eAB__C___"), ("\\A.B.C", b"\\\x2f\x03A___B___C___")),
    ],
)
def test_name_paths(path: str, expected: bytes) -> None:
    assert a.name_path(path) == expected


@pytest.mark.parametrize("path", ["", "ABCDE", "1A", "a", "A..B", "A.", "^\\A", "A B", "Ä", "A\n"])
def test_bad_name_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="AML name"):
        a.name_path(path)


def test_longest_name_path() -> None:
    assert a.name_path(".".join(["A"] * 255))[:2] == b"\x2f\xff"
    with pytest.raises(ValueError, match="256 segments"):
        a.name_path(".".join(["A"] * 256))


@pytest.mark.parametrize("text", ["PNP0A0", "PNP0A08F", "pnp0A08", "PNP0a08", "PN10A08", "PNP0G08", ""])
def test_bad_eisa_ids_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="EISA id"):
        a.eisaid(text)


@pytest.mark.parametrize(
    "text", ["", "33db4d5b1ff7401c96577441c03dd766", "33db4d5b-1ff7-401c-9657-7441c03dd7zz"]
)
def test_bad_uuids_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        a.uuid(text)


def test_values_that_do_not_fit_are_refused() -> None:
    calls: tuple[Callable[[], bytes], ...] = (
        lambda: a.integer(1 << 64),
        lambda: a.integer(-1),
        lambda: a.byte(256),
        lambda: a.dword(-1),
        lambda: a.string("a\0b"),
        lambda: a.string("ä"),
        lambda: a.package(*[0] * 256),
        lambda: a.package(0, 0, count=1),
        lambda: a.method("M", 8),
        lambda: a.mutex("M", 16),
        lambda: a.acquire("M", 0x10000),
        lambda: a.field("R", ("A", 16), a.offset(1)),
        lambda: a.field("R", access=6),
    )
    for make in calls:
        with pytest.raises(ValueError, match="AML"):
            make()
