# SPDX-License-Identifier: Apache-2.0
"""The x86 machine: tables found as a guest finds them, and its methods run in ACPICA's simulator."""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Iasl, assert_iasl_makes_the_same, table

from vmm_acpi import aml as a
from vmm_acpi import tables as t
from vmm_acpi.machine import Blob, build_x86

OSC_UUID = "33DB4D5B-1FF7-401C-9657-7441C03DD766"
DSM_UUID = "E5C937D0-3553-4D7A-9117-EA4D19C3434D"

# Methods that call the machine's own as an OS does; iasl compiles them, apart from our encoder.
CALLER = f"""
DefinitionBlock ("", "SSDT", 2, "VMM", "CALLER", 1) {{
    External (\\_SB.GED._EVT, MethodObj)
    External (\\_SB.GED.GDAT, FieldUnitObj)
    External (\\_SB.PC00._OSC, MethodObj)
    External (\\_SB.PC00._DSM, MethodObj)
    External (\\SEEN, IntObj)
    Method (EVNT, 1) {{ SEEN = 0  \\_SB.GED.GDAT = Arg0  \\_SB.GED._EVT (13)  Return (SEEN) }}
    Method (ASK, 2, Serialized) {{
        Name (CAPS, Buffer () {{0, 0, 0, 0, 0x1F, 1, 0, 0, 0, 0, 0, 0}})
        CreateDWordField (CAPS, 8, CTRL)
        CTRL = Arg1
        Return (\\_SB.PC00._OSC (ToUUID ("{OSC_UUID}"), Arg0, 3, CAPS))
    }}
    Method (ASKX) {{
        Return (\\_SB.PC00._OSC (ToUUID ("{DSM_UUID}"), 1, 3,
            Buffer () {{0, 0, 0, 0, 0x1F, 1, 0, 0, 0x1F, 0, 0, 0}}))
    }}
    Method (DSM, 1) {{ Return (\\_SB.PC00._DSM (ToUUID ("{DSM_UUID}"), 1, Arg0, Package () {{}})) }}
    Method (DSMX) {{ Return (\\_SB.PC00._DSM (ToUUID ("{OSC_UUID}"), 1, 5, Package () {{}})) }}
}}
"""


def machine(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "address": 0xA0000,
        "cpus": [{"apic_id": n} for n in range(4)],
        "segments": [
            {
                "id": 0,
                "ecam": 0xE8000000,
                "mmio32": (0xC0000000, 0x28000000),
                "mmio64": (0x1_0000_0000, 0x3FFE_0000_0000),
                "io": [(0, 0xCF8), (0xD00, 0xF300)],
                "prt": {slot: 5 + slot % 8 for slot in range(32)},
            },
            {
                "id": 1,
                "ecam": 0xE8100000,
                "mmio64": (0x3FFF_0000_0000, 0x1_0000_0000),
                "prt": {3: (5, None, 7, 8)},
            },
        ],
        "ioapics": [{"address": 0xFEC00000}],
        "isos": [{"source": 4, "gsi": 4}],
        "ged": {"gsi": 13, "address": 0x3FFF_FFFE_F000},
        "sleep_port": 0x600,
        "reset_port": 0x600,
        "pm_timer_port": 0x608,
        "serial": [{"port": 0x3F8, "irq": 4}],
        "extra_root": [a.name("\\SEEN", 0)],
    }
    return {**spec, **changes}


def build(**changes: Any) -> Blob:
    return build_x86(machine(**changes))  # type: ignore[arg-type]


def scan_method(path: str, bit: int) -> bytes:
    """A method that notes its call in the integer SEEN."""
    return a.method(path, 0, a.or_("\\SEEN", bit, "\\SEEN"))


HOTPLUG = {
    "scan": {"cpu": "\\_SB.CPUS.CSCN", "memory": "\\_SB.MSCN", "pci": "\\_SB.PSCN"},
    "cpus_aml": scan_method("CSCN", 0x10),
    "extra": [scan_method("MSCN", 0x20), scan_method("PSCN", 0x40)],
}
MACHINES: dict[str, dict[str, Any]] = {
    "default": {},
    "smallest": {
        "cpus": [{"apic_id": 0}],
        "segments": [],
        **{key: None for key in ("ged", "sleep_port", "reset_port", "pm_timer_port")},
        **{"serial": [], "isos": [], "extra_root": []},
    },
    "hot plug": HOTPLUG,
    "PCI hot plug": {"pci_hotplug": 0x3FFF_FFFE_C000, "preserve_boot_config": True},
    "many CPUs and segments": {
        "cpus": [{"apic_id": n, "enabled": not 100 <= n < 200} for n in range(300)],
        "segments": [{"id": n, "ecam": 0xE8000000 + (n << 20), "buses": (0, 0)} for n in range(96)],
    },
    "everything": {
        "cpus": [
            {"apic_id": 0, "node": 0},
            {"apic_id": 300, "node": 1, "aml": a.method("_STA", 0, a.return_(15))},
        ],
        "memory": [
            {"base": 0, "size": 1 << 30, "node": 0},
            {"base": 1 << 32, "size": 1 << 30, "node": 1, "hotplug": True},
        ],
        "distances": [[10, 20], [20, 10]],
        "segments": [
            {
                "id": 0xAB,
                "ecam": 0x40_0000_0000,
                "buses": (2, 5),
                "node": 1,
                "aml": a.name("_SUN", 1),
                "cf8": True,
            }
        ],
        "rtc": {"port": 0x70, "irq": 8},
        "serial": [{"port": 0x3F8, "irq": 4}, {"port": 0x2F8, "irq": 3}],
        "reserved": [(0xFED40000, 0x1000)],
        "reserved_io": [(0x600, 16)],
        "preserve_boot_config": True,
        "tables": [t.sdt(b"BOOT", 1, bytes(4), t.Ids())],
        "extra_root": [a.name("\\ROOT", 5)],
    },
}


@pytest.mark.parametrize("key", MACHINES)
def test_tables_lie_as_listed(key: str) -> None:
    blob = build(**MACHINES[key])
    order = [signature for signature, _, _ in blob.tables]
    assert order[:4] == ["RSDP", "DSDT", "FACP", "APIC"] and order[-1] == "XSDT"
    end = blob.address
    for signature, address, size in blob.tables:
        assert address % 16 == 0 and end <= address < end + 16
        end = address + size
        if signature not in ("RSDP", "XSDT"):
            start = address - blob.address
            assert table(blob, signature) == blob.data[start : start + size]
    assert end == blob.address + len(blob.data)


# SHA-256 of what this version makes: guests of saved machines have these tables.
THIS_VERSION = {
    "default": "68cd044ef37550e5955a8fc26c32be1f537bbf98e64b12c1f209e1494fcf8b32",
    "smallest": "b93bb0c77cc8d135fcbb82f35b29dc3a3d62a6d13cca70ee464b7d6f16981e66",
    "hot plug": "7e1bb7b2c733ae53b232bc96a7cd3a0b652ba8eead01b2e9f8445252f15468b3",
    "PCI hot plug": "717a2d0f73ff6cb5e2a7d338a68a23d22d218666124bd7b4731bc8364a9f353e",
    "many CPUs and segments": "faeb6eb617f2531ff534ae383e64fc0ec9a9ab3020961a1a3b6548c68694fbbf",
    "everything": "efa604bee160d0f9b4dba008004feda9bd3e031f33d906c471783b31a6c2ed95",
}


@pytest.mark.parametrize("key", MACHINES)
def test_tables_have_not_changed(key: str) -> None:
    assert hashlib.sha256(build(**MACHINES[key]).data).hexdigest() == THIS_VERSION[key]


@pytest.mark.parametrize("key", MACHINES)
def test_iasl_makes_the_same_tables(iasl: Iasl, key: str) -> None:
    blob = build(**MACHINES[key])
    for _, address, size in blob.tables[1:]:
        assert_iasl_makes_the_same(iasl, blob.data[address - blob.address :][:size])


def run(iasl: Iasl, blob: Blob, *commands: str) -> list[str]:
    """What ACPICA's simulator prints for calls of methods of CALLER or of the machine."""
    caller, _ = iasl.compile(CALLER)
    return iasl.execute([table(blob, "DSDT"), table(blob, "FACP"), caller], list(commands))


def button_presses(said: list[str]) -> int:
    """Notifications of the power button; the simulator prints them from a thread of its own."""
    return len(re.findall(r"Notify on \[PWRB\] \S+ Value 0x80 ", "".join(said)))


def returned(said: str) -> bytes | int:
    """The buffer or the integer that a call returned."""
    number = re.search(r"\[Integer\] = ([0-9A-F]+)", said)
    if number:
        return int(number[1], 16)
    rows = re.findall(r" [0-9A-F]{4}: ((?:[0-9A-F]{2} )+)", said)
    assert rows, said
    return bytes.fromhex("".join(rows))


def osc_answer(status: int, granted: int) -> bytes:
    return struct.pack("<III", status, 0x11F, granted)


def test_events_and_capabilities_of_the_plain_machine(iasl: Iasl) -> None:
    cpus = [{"apic_id": 0}, {"apic_id": 1, "enabled": False}]
    blob = build(preserve_boot_config=True, cpus=cpus)
    said = run(
        iasl,
        blob,
        *("\\EVNT 0xFF", "\\EVNT 0xF7"),
        *("\\ASK 1 0x1F", "\\ASK 1 0xBF", "\\ASK 1 0xFFF", "\\ASK 2 0x1F", "\\ASKX"),
        *("\\DSM 0", "\\DSM 5", "\\DSMX", "\\_SB.CPUS.C001._STA"),
    )
    assert [returned(text) for text in said[:2]] == [0, 0]
    assert button_presses(said) == 1
    assert [returned(text) for text in said[2:7]] == [
        osc_answer(0, 0x1F),
        osc_answer(0, 0xBF),
        osc_answer(0x10, 0xBF),  # bit 4: capabilities masked
        osc_answer(0x08, 0x1F),  # bit 3: unrecognised revision
        osc_answer(0x04, 0x1F),  # bit 2: unrecognised UUID, buffer unchanged
    ]
    assert [returned(text) for text in said[7:]] == [b"\x21", 0, b"\x00", 0]


def test_events_and_capabilities_with_hot_plug(iasl: Iasl) -> None:
    blob = build(**HOTPLUG, preserve_boot_config=False)
    events = [(0, 0), (1, 0x10), (2, 0x20), (4, 0x40), (8, 0), (0xF0, 0), (0xF, 0x70)]
    said = run(iasl, blob, *(f"\\EVNT {bits:#x}" for bits, _ in events), "\\ASK 1 0x1F", "\\DSM 5")
    assert [returned(text) for text in said[:7]] == [seen for _, seen in events]
    assert button_presses(said) == 2
    assert returned(said[7]) == osc_answer(0x10, 0x1C)  # one owner of PCI hot plug: the scan method
    assert returned(said[8]) == 1


def test_granted_control_can_be_set(iasl: Iasl) -> None:
    assert returned(run(iasl, build(osc_control=0x10), "\\ASK 1 0x1F")[0]) == osc_answer(0x10, 0x10)


def test_bridge_windows_and_routing(iasl: Iasl) -> None:
    text = iasl.disassemble(table(build(), "DSDT"))
    first, second = text.split("Device (PC01)")
    second = second[: second.index("Device (MBRD)")]
    for value in (
        *("0x0CF8,             // Range Minimum", "0xC0000000,         // Range Minimum"),
        *("0xE7FFFFFF,         // Range Maximum", "0x00003FFEFFFFFFFF, // Range Maximum"),
    ):
        assert value in first
    assert "0x0CF8" not in second  # CF8/CFC reach segment 0 only
    assert first.count("0xFFFF, \n") == 1  # slot 0: address 0x0000ffff; one entry a slot
    assert first.count("FFFF, \n") == 32
    assert re.findall(r"0x0003FFFF, \s+(\w+), \s+Zero, \s+(\w+)", second) == [
        *(("Zero", "0x05"), ("0x02", "0x07"), ("0x03", "0x08"))
    ]


def test_ecam_is_listed_and_reserved(iasl: Iasl) -> None:
    blob = build(**MACHINES["everything"])
    assert struct.unpack_from("<QHBB", table(blob, "MCFG"), 44) == (0x40_0000_0000, 0xAB, 2, 5)
    text = iasl.disassemble(table(blob, "DSDT"))
    board = text[text.index("Device (MBRD)") : text.index("Device (CPUS)")]
    assert "0x0000004000200000, // Range Minimum" in board and "0x00000040005FFFFF, // Range Maximum" in board
    assert "0xFED40000,         // Address Base" in board
    assert "0x0600,             // Range Minimum" in board


def test_sleep_package(iasl: Iasl) -> None:
    assert "Name (\\_S5, Package (0x04)" in iasl.disassemble(table(build(), "DSDT"))
    assert "_S5" not in iasl.disassemble(table(build(sleep_port=None), "DSDT"))


def test_processors_agree_between_madt_and_dsdt(iasl: Iasl) -> None:
    cpus = [{"apic_id": 2 * n, "uid": n + 10, "enabled": n != 2} for n in range(3)]
    blob = build(cpus=[*cpus, {"apic_id": 0x1FF, "uid": 9}])
    madt = table(blob, "APIC")
    local_apics = [struct.unpack_from("<BBBBI", madt, 44 + 8 * n) for n in range(3)]
    assert local_apics == [(0, 8, 10, 0, 1), (0, 8, 11, 2, 1), (0, 8, 12, 4, 2)]
    assert struct.unpack_from("<BBHIII", madt, 68) == (9, 16, 0, 0x1FF, 1, 9)
    text = iasl.disassemble(table(blob, "DSDT"))
    names = re.findall(r"Device \(C0(\w\w)\)\s+{\s+Name \(_HID, \"ACPI0007\".*?\s+Name \(_UID, (\w+)\)", text)
    assert names == [("00", "0x0A"), ("01", "0x0B"), ("02", "0x0C"), ("03", "0x09")]


def test_x2apic_mode_lists_every_processor_so() -> None:
    blob = build(apic_mode="x2apic", memory=[{"base": 0, "size": 1 << 20, "node": 0}])
    assert [table(blob, "APIC")[44 + 16 * n] for n in range(4)] == [9, 9, 9, 9]
    assert [table(blob, "SRAT")[48 + 24 * n] for n in range(4)] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adress": 1}, "unknown adress"),
        ({"address": 0xA0008}, "multiple of 16"),
        ({"cpus": [{"apic_id": 0}, {"apic_id": 0}]}, "APIC id occurs twice"),
        ({"cpus": [{"apic_id": 0, "uid": 1}, {"apic_id": 1}]}, "processor UID occurs twice"),
        ({"segments": [{"id": 256, "ecam": 0}]}, "segment 256"),
        ({"segments": [{"id": 0, "ecam": 0}, {"id": 0, "ecam": 0}]}, "segment id occurs twice"),
        ({"segments": [{"id": 0, "ecam": 0, "buses": (3, 2)}]}, "bus range 3..2"),
        ({"segments": [{"id": 0, "ecam": 0, "prt": {32: 5}}]}, "slot 32"),
        ({"segments": [{"id": 0, "ecam": 0, "prt": {1: (1, 2, 3, 4, 5)}}]}, "interrupt pins"),
        ({"segments": [{"id": 0, "ecam": 0, "mmio32": (0xF0000000, 0x20000000)}]}, "32-bit address window"),
        ({"ioapics": [{"address": 1 << 32}]}, "I/O APIC"),
        ({"apic_mode": "xapic"}, "apic_mode"),
        ({"max_size": 1000}, "1000 fit"),
        ({"extra": [a.name("BIG", a.buffer(bytes(0x60000)))]}, "393216 fit"),
    ],
)
def test_bad_descriptions_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)


def test_missing_key_is_named() -> None:
    spec = machine()
    del spec["cpus"]
    with pytest.raises(ValueError, match="lacks cpus"):
        build_x86(spec)  # type: ignore[arg-type]


def test_only_a_few_modules_are_loaded() -> None:
    """Planning pays for every import, so heavy ones must not creep in."""
    code = "import sys; old = set(sys.modules); import vmm_acpi.machine; print(*set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if not name.startswith("vmm_acpi")}
    assert loaded <= {"struct", "_struct", "__future__"}


def test_readme_example_runs() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert b"VMMS0001" in table(names["blob"], "DSDT")
