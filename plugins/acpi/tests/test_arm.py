# SPDX-License-Identifier: Apache-2.0
"""Tables of Arm machines, as ACPICA reads them."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from conftest import Iasl, assert_iasl_makes_the_same

from vmm_acpi import arm
from vmm_acpi import tables as t

IDS = t.Ids()
GTDT = arm.gtdt(29, 30, 27, 26, IDS, virtual_el2=28, flags=arm.TIMER_ACTIVE_LOW | arm.TIMER_ALWAYS_ON)
SPCR = arm.spcr(t.gas(t.SYSTEM_MEMORY, 0x0900_0000, 32, 3), 43, IDS)
DBG2 = arm.dbg2(t.gas(t.SYSTEM_MEMORY, 0x0900_0000, 32, 3), 0x1000, "\\_SB.COM1", IDS)
IORT = arm.iort(0, [(0, 0, 0x100, 0), (5, 0x200, 0x400, 0x700)], IDS)
PPTT = arm.pptt(arm.processor_tree(2, 2, 1, 2, range(4, 12)), IDS)
TABLES = {
    "GTDT": GTDT,
    "SPCR": SPCR,
    "DBG2": DBG2,
    "IORT": IORT,
    "PPTT": PPTT,
    "PPTT flat": arm.pptt(arm.processor_tree(1, 1, 4, 1, range(4)), IDS),
}


@pytest.mark.parametrize("key", TABLES)
def test_iasl_makes_the_same_table(iasl: Iasl, key: str) -> None:
    table = TABLES[key]
    assert sum(table) % 256 == 0
    assert struct.unpack_from("<4sI", table) == (key[:4].encode(), len(table))
    assert_iasl_makes_the_same(iasl, table)


@pytest.mark.parametrize(
    ("table", "label", "values"),
    [
        (GTDT, "Secure EL1 Interrupt", ["0000001D"]),
        (GTDT, "Non-Secure EL1 Interrupt", ["0000001E"]),
        (GTDT, "Virtual Timer Interrupt", ["0000001B"]),
        (GTDT, "Non-Secure EL2 Interrupt", ["0000001A"]),
        (GTDT, "Polarity", ["1", "1", "1", "1"]),
        (GTDT, "Trigger Mode", ["0", "0", "0", "0"]),
        (GTDT, "Always On", ["1", "1", "1", "1"]),
        (GTDT, "Platform Timer Count", ["00000000"]),
        (SPCR, "Interface Type", ["03"]),
        (SPCR, "Address", ["0000000009000000"]),
        (SPCR, "Interrupt Type", ["08"]),
        (SPCR, "Interrupt", ["0000002B"]),
        (SPCR, "Stop Bits", ["01"]),
        (SPCR, "PCI Device ID", ["FFFF"]),
        (PPTT, "Physical package", ["1", "0", "0", "0", "0", "0", "0", "0", "0"] * 2),
        (PPTT, "ACPI Processor ID valid", ["1"] * 18),
        (DBG2, "Port Type", ["8000"]),
        (DBG2, "Port Subtype", ["0003"]),
        (DBG2, "Address", ["0000000009000000"]),
        (DBG2, "Address Size", ["00001000"]),
        (DBG2, "Namepath", ['"\\_SB.COM1"']),
        (IORT, "Type", ["00", "02", "02"]),
        (IORT, "ItsCount", ["00000001"]),
        (IORT, "Cache Coherency", ["00000001"] * 2),
        (IORT, "Coherency", ["1"] * 2),
        (IORT, "PCI Segment Number", ["00000000", "00000005"]),
        (IORT, "Memory Size Limit", ["40"] * 2),
        (IORT, "Input base", ["00000000", "00000200"]),
        (IORT, "ID Count", ["000000FF", "000003FF"]),
        (IORT, "Output Base", ["00000000", "00000700"]),
        (IORT, "Output Reference", ["00000030"] * 2),
    ],
)
def test_fields(
    field_of: Callable[[bytes, str], list[str]], table: bytes, label: str, values: list[str]
) -> None:
    assert field_of(table, label) == values


def test_virtual_el2_timer_follows_the_platform_timer_offset() -> None:
    assert len(GTDT) == 104
    assert struct.unpack_from("<II", GTDT, 96) == (28, 6)


def test_topology_forms_a_tree() -> None:
    """Walk from each leaf to its package by the parent offsets."""
    nodes = {place: struct.unpack_from("<BBHIIII", PPTT, place) for place in range(36, len(PPTT), 20)}
    leaves = {node[5]: node for node in nodes.values() if node[3] & 8}
    assert sorted(leaves) == list(range(4, 12))
    paths = {}
    for uid, node in leaves.items():
        path = [node[4]]
        while nodes[path[-1]][4]:
            path.append(nodes[path[-1]][4])
        assert nodes[path[-1]][3] & 1 and len(path) == 3
        paths[uid] = path
    assert paths[4] == paths[5] and paths[5][1:] != paths[6][1:] and paths[4][2] == paths[7][2] != paths[8][2]


@pytest.mark.parametrize("levels", [(1, 0, 1, 1), (1, 1, 2, 1)])
def test_topology_that_does_not_fit_is_refused(levels: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="topology"):
        arm.processor_tree(*levels, [0])
