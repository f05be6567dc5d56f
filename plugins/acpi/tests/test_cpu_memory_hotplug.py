# SPDX-License-Identifier: Apache-2.0
"""AML of CPUs and memory that come and go: as ASL would have it, and run in ACPICA's simulator."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest
from conftest import Iasl, assert_iasl_makes_the_same, table
from test_machine import returned

from vmm_acpi import cpu_hotplug, madt, memory_hotplug, numa
from vmm_acpi.machine import build_x86

CPUS, MEMORY = 0x3FFF_FFFE_E000, 0x3FFF_FFFE_D000


# The simulator's registers are memory: every unit finds the same, and what is acknowledged stays.
CALLER = """
DefinitionBlock ("", "SSDT", 2, "VMM", "CALLER", 1) {
    External (\\_SB.GED._EVT, MethodObj)
    External (\\_SB.GED.GDAT, FieldUnitObj)
    External (\\_SB.CPUS.C002._STA, MethodObj)
    External (\\_SB.CPUS.C002._EJ0, MethodObj)
    External (\\_SB.MHPC.M003._STA, MethodObj)
    External (\\_SB.MHPC.M003._CRS, MethodObj)
    External (\\_SB.MHPC.MHBH, FieldUnitObj)
    External (\\_SB.MHPC.MHLL, FieldUnitObj)
    External (\\_SB.MHPC.MHLH, FieldUnitObj)
    OperationRegion (CREG, SystemMemory, 0x3FFFFFFEE000, 12)
    Field (CREG, DWordAcc, NoLock, Preserve) { CSEL, 32, CSTA, 32 }
    OperationRegion (MREG, SystemMemory, 0x3FFFFFFED000, 24)
    Field (MREG, DWordAcc, NoLock, Preserve) { Offset (20), MSTA, 32 }
    Method (TELL, 3) { CSTA = Arg1  MSTA = Arg2  \\_SB.GED.GDAT = Arg0  \\_SB.GED._EVT (13) }
    Method (THER) { CSTA = 1  Return (\\_SB.CPUS.C002._STA () << 8 | \\_SB.MHPC.M003._STA ()) }
    Method (EJEC) { CSTA = 0  \\_SB.CPUS.C002._EJ0 (1)  Return (CSEL << 8 | CSTA) }
    Method (WHER) {
        \\_SB.MHPC.MHBH = 0x12  \\_SB.MHPC.MHLL = 0x80000000  \\_SB.MHPC.MHLH = 1
        Return (\\_SB.MHPC.M003._CRS ())
    }
}
"""


def machine(cpus: int = 3, **more: Any) -> bytes:
    """The DSDT of a machine with both controllers."""
    blob = build_x86({
        "address": 0xA0000,
        "cpus": [
            {"apic_id": n, "enabled": n < 1, "aml": cpu_hotplug.processor(n, madt.local_apic(n, n))}
            for n in range(cpus)
        ],
        "cpus_aml": cpu_hotplug.methods(cpus),
        "segments": [], "ioapics": [{"address": 0xFEC0_0000}],
        "ged": {"gsi": 13, "address": 0xFED0_0000},
        "scan": {"cpu": cpu_hotplug.SCAN, "memory": memory_hotplug.SCAN},
        "extra": [cpu_hotplug.controller(CPUS), memory_hotplug.controller(MEMORY, **more)],
    })
    return table(blob, "DSDT")


def test_iasl_makes_the_same(iasl: Iasl) -> None:
    assert_iasl_makes_the_same(iasl, machine())
    assert_iasl_makes_the_same(iasl, machine(cpus=20, slots=3, node=2))


def test_names_and_registers_are_the_anchors(iasl: Iasl) -> None:
    text = iasl.disassemble(machine())
    for name in ("PRES", "MHPC", "C000", "C002", "M000", "M007"):
        assert f"Device ({name})" in text
    assert "OperationRegion (PRST, SystemMemory, 0x00003FFFFFFEE000, 0x0C)" in text
    assert "OperationRegion (MHPR, SystemMemory, 0x00003FFFFFFED000, 0x18)" in text
    assert "\\_SB.CPUS.CSCN ()" in text and "\\_SB.MHPC.MSCN ()" in text
    assert text.count("Method (_EJ0") == 2, "the first CPU stays"


def test_processor_says_that_it_is_enabled() -> None:
    entry = madt.local_x2apic(300, 300)
    assert entry in cpu_hotplug.processor(300, entry)
    assert struct.unpack_from("<I", entry, 8)[0] == madt.ENABLED


def test_methods_run_and_give_the_lock_back(iasl: Iasl) -> None:
    calls = ["\\_SB.CPUS.CSCN", "\\_SB.MHPC.MSCN", "\\_SB.CPUS.C001._STA", "\\_SB.MHPC.M003._STA",
             "\\_SB.CPUS.C001._EJ0 1", "\\_SB.CPUS.C001._STA", "\\_SB.MHPC.M003._CRS", "\\_SB.GED._EVT 0"]
    answers = iasl.execute([machine()], calls)
    assert "[Integer] = 0000000000000000" in answers[2] and "[Integer] = 0000000000000000" in answers[3]
    assert "[Buffer]" in answers[6]


def test_guest_is_told_what_is_there_and_gives_it_back(iasl: Iasl) -> None:
    caller, _ = iasl.compile(CALLER)
    said = iasl.execute([machine(), caller], ["\\TELL 1 2 2", "\\TELL 1 4 4", "\\TELL 2 2 2", "\\TELL 2 4 4",
                                              "\\TELL 3 0 0", "\\THER", "\\EJEC", "\\WHER"])
    told = [set(re.findall(r"Notify on \[(\w+)\] \S+ Value 0x0*(\d+) ", text)) for text in said[:5]]
    cpus, slots = [f"C{n:03X}" for n in range(3)], [f"M{n:03X}" for n in range(8)]
    assert told == [{(name, value) for name in names}
                    for names, value in ((cpus, "1"), (cpus, "3"), (slots, "1"), (slots, "3"), ([], "0"))]
    assert returned(said[5]) == 0xF00
    assert returned(said[6]) == 2 << 8 | 8, "the CPU's number, and the bit that ejects it"
    data = bytes.fromhex("".join(re.findall(r"^ *[0-9A-F]{4}: ((?:[0-9A-F]{2} )+)", said[7], re.M)))
    base, last, _, size = struct.unpack_from("<4Q", data, 14)
    assert (base, last, size) == (0x12_0000_0003, 0x12_0000_0003 + 0x1_8000_0000 - 1, 0x1_8000_0000)


def test_more_cpus_than_names() -> None:
    with pytest.raises(ValueError, match="4097 CPUs"):
        cpu_hotplug.methods(4097)


def test_nodes_of_everything() -> None:
    spec: dict[str, Any] = {"cpus": [{"apic_id": 0}, {"apic_id": 1}], "segments": [{"id": 0}, {"id": 1}]}
    nodes: dict[str, dict[int | str, int]] = {"cpus": {0: 0, 1: 1}, "memory_zones": {"a": 0, "b": 1},
                                              "pci_segments": {1: 1}}
    zones = {"a": [[0, 0x1000]], "b": [[0x1000, 0x1000], [0x8000, 0x1000]]}
    numa.describe(spec, nodes, zones, {"b": (0x10000, 0x2000)}, [[10, 30], [30, 10]])
    assert [cpu["node"] for cpu in spec["cpus"]] == [0, 1]
    assert spec["segments"] == [{"id": 0}, {"id": 1, "node": 1}]
    assert [(m["base"], m["node"], m["hotplug"]) for m in spec["memory"]] == [
        (0, 0, False), (0x1000, 1, False), (0x8000, 1, False), (0x10000, 1, True)]
    assert spec["distances"] == [[10, 30], [30, 10]]
