# SPDX-License-Identifier: Apache-2.0
"""AML of CPUs and memory that come and go: as ASL would have it, and run in ACPICA's simulator."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from conftest import Iasl, assert_iasl_makes_the_same, table

from vmm_acpi import cpu_hotplug, madt, memory_hotplug, numa
from vmm_acpi.machine import build_x86

CPUS, MEMORY = 0x3FFF_FFFE_E000, 0x3FFF_FFFE_D000


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
