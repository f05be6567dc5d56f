# SPDX-License-Identifier: Apache-2.0
"""PCI hot plug: the slots' methods and the controller's, run in ACPICA's simulator."""

from __future__ import annotations

import re
from typing import Any

from conftest import Iasl, table
from test_machine import machine, returned

from vmm_acpi.machine import Blob, build_x86

# The simulator's registers are memory, in which every segment finds the same.
CALLER = """
DefinitionBlock ("", "SSDT", 2, "VMM", "CALLER", 1) {
    External (\\_SB.GED._EVT, MethodObj)
    External (\\_SB.GED.GDAT, FieldUnitObj)
    External (\\_SB.PHPR.PCIU, FieldUnitObj)
    External (\\_SB.PHPR.PCID, FieldUnitObj)
    External (\\_SB.PHPR.B0EJ, FieldUnitObj)
    External (\\_SB.PHPR.PSEG, FieldUnitObj)
    External (\\_SB.PC00.S005._EJ0, MethodObj)
    External (\\_SB.PC01.S031._EJ0, MethodObj)
    Method (PLUG, 2) {
        \\_SB.PHPR.PCIU = Arg0  \\_SB.PHPR.PCID = Arg1
        \\_SB.GED.GDAT = 4  \\_SB.GED._EVT (13)
    }
    Method (EJA) { \\_SB.PC00.S005._EJ0 (1)  Return (\\_SB.PHPR.PSEG << 32 | \\_SB.PHPR.B0EJ) }
    Method (EJB) { \\_SB.PC01.S031._EJ0 (1)  Return (\\_SB.PHPR.PSEG << 32 | \\_SB.PHPR.B0EJ) }
}
"""


def build() -> Blob:
    spec: dict[str, Any] = machine(pci_hotplug=0x3FFF_FFFE_C000)
    return build_x86(spec)  # type: ignore[arg-type]


def test_the_guest_is_told_which_slots_and_tells_what_it_ejects(iasl: Iasl) -> None:
    blob = build()
    caller, _ = iasl.compile(CALLER)
    said = iasl.execute(
        [table(blob, "DSDT"), table(blob, "FACP"), caller],
        ["\\EJA", "\\EJB", "\\PLUG 0x80000008 0x21", "\\PLUG 0 0"],
    )
    assert [returned(text) for text in said[:2]] == [1 << 5, 1 << 32 | 1 << 31]
    told = re.findall(r"Notify on \[(S\d+)\] \S+ Value 0x0*(\d+) ", "".join(said))
    # Slot 0 of the first segment is the host bridge's.
    expected = [("S003", "1"), ("S031", "1"), ("S005", "3")] * 2 + [("S000", "3")]
    assert sorted(told) == sorted(expected)


def test_every_slot_has_its_own_address(iasl: Iasl) -> None:
    text = iasl.disassemble(table(build(), "DSDT"))
    first, second = text[: text.index("Device (MBRD)")].split("Device (PC01)")
    for part, slots in ((first, range(1, 32)), (second, range(32))):
        found = re.findall(r"Device \(S(\d+)\)\s+{\s+Name \(_SUN, (\w+)\).*\s+Name \(_ADR, (\w+)\)", part)
        values = [(int(name), number(sun), number(adr) >> 16) for name, sun, adr in found]
        assert values == [(slot, slot, slot) for slot in slots]


def number(text: str) -> int:
    return {"Zero": 0, "One": 1}.get(text) or int(text.replace("Zero", "0").replace("One", "1"), 0)
