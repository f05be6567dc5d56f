# SPDX-License-Identifier: Apache-2.0
"""The Arm machine: tables found as a guest or its firmware finds them, read by ACPICA."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest
from conftest import Iasl, assert_iasl_makes_the_same, table
from test_machine import returned

from vmm_acpi import aml as a
from vmm_acpi import tables as t
from vmm_acpi.loader import loader_files
from vmm_acpi.machine import Blob, build_arm, build_x86

REDIST_SIZE = 0x20000
DISTRIBUTOR = 0x08FF_0000


def mpidr(index: int) -> int:
    """Affinity as KVM gives it to its vCPUs: 16 in a group at level 0."""
    return (index // 16) << 8 | index % 16


def machine(count: int = 4, /, **changes: Any) -> dict[str, Any]:
    redist = DISTRIBUTOR - REDIST_SIZE * count
    spec: dict[str, Any] = {
        "address": 0x4020_0000,
        "cpus": [{"mpidr": mpidr(n), "pmu_ppi": 7} for n in range(count)],
        "gic": {"dist": DISTRIBUTOR, "redist": (redist, REDIST_SIZE * count), "its": redist - REDIST_SIZE},
        "segments": [
            {
                "id": 0,
                "ecam": 0x3000_0000,
                "mmio32": (0x1000_0000, 0x2000_0000),
                "mmio64": (0x2_0000_0000, 0x40_0000_0000),
                "pio": (0x0905_0000, 0x10000),
                "prt": {slot: slot % 8 for slot in range(32)},
            },
        ],
        "ged": {"gsi": 10, "address": 0x0906_0000},
        "serial": [{"address": 0x0900_0000, "gsi": 11}],
        "gpio": {"address": 0x0902_0000, "gsi": 9},
    }
    return {**spec, **changes}


def build(*arguments: int, **changes: Any) -> Blob:
    return build_arm(machine(*arguments, **changes))  # type: ignore[arg-type]


def segments(count: int) -> list[dict[str, Any]]:
    ecam = 0x3000_0000
    return [
        {"id": n, "ecam": ecam + (n << 20), "mmio64": ((2 + n) << 32, 1 << 32), "prt": {3: (n % 8, None, 2)}}
        for n in range(count)
    ]


NUMA: dict[str, Any] = {
    "cpus": [{"mpidr": n, "node": n} for n in range(2)],
    "memory": [{"base": (1 + n) << 30, "size": 1 << 30, "node": n} for n in range(2)],
    "distances": [[10, 20], [20, 10]],
}
MACHINES: dict[str, dict[str, Any]] = {
    "1 CPU": machine(1),
    "4 CPUs": machine(4),
    "123 CPUs": machine(123),
    "16 segments": machine(segments=segments(16)),
    "NUMA": machine(**NUMA),
    "threads, clusters, packages": machine(16, topology=[2, 2, 2, 2]),
    "smallest": {
        "address": 0,
        "cpus": [{"mpidr": 0}],
        "gic": {"dist": DISTRIBUTOR, "redist": (0x0800_0000, REDIST_SIZE)},
        "segments": [],
    },
    "extras": machine(
        tables=[t.sdt(b"BOOT", 1, bytes(4), t.Ids())],
        extra=[a.device("SENS", a.name("_HID", a.string("VMMS0001")))],
        reserved=[(0x0906_0000, 0x1000)],
        psci="smc",
    ),
}


def build_key(key: str) -> Blob:
    return build_arm(MACHINES[key])  # type: ignore[arg-type]


@pytest.mark.parametrize("key", MACHINES)
def test_tables_are_complete(key: str) -> None:
    blob, spec = build_key(key), MACHINES[key]
    names = [signature for signature, _, _ in blob.tables]
    expected = ["RSDP", "DSDT", "FACP", "APIC", "GTDT"]
    expected += ["SPCR", "DBG2"] if "serial" in spec else []
    expected += ["IORT"] if spec["segments"] else []
    expected += ["PPTT"] + (["MCFG"] if spec["segments"] else [])
    expected += ["SRAT", "SLIT"] if "memory" in spec else []
    assert names == [*expected, *(["BOOT"] if "tables" in spec else []), "XSDT"]
    for signature, address, size in blob.tables:
        assert address % 16 == 0
        if signature not in ("RSDP", "XSDT"):
            assert len(table(blob, signature)) == size


@pytest.mark.parametrize("key", MACHINES)
def test_iasl_makes_the_same_tables(iasl: Iasl, key: str) -> None:
    blob = build_key(key)
    for _, address, size in blob.tables[1:]:
        assert_iasl_makes_the_same(iasl, blob.data[address - blob.address :][:size])


def structures(madt: bytes) -> list[bytes]:
    """The structures of a MADT (ACPI 6.5 table 5.21: type, length)."""
    out, place = [], 44
    while place < len(madt):
        out.append(madt[place : place + madt[place + 1]])
        place += madt[place + 1]
    return out


@pytest.mark.parametrize("cpus", [1, 4, 123])
def test_madt_has_the_processors_and_the_gic(cpus: int) -> None:
    found = structures(table(build(cpus), "APIC"))
    gicc = [struct.unpack("<BBHIIIIIQQQQIQQBBH", each) for each in found[:cpus]]
    for index, each in enumerate(gicc):
        # type, length, reserved, interface, uid, enabled, parking version, performance interrupt
        assert each[:8] == (11, 80, 0, index, index, 1, 0, 16 + 7)
        # parked, base, GICV, GICH, maintenance interrupt, GICR, MPIDR, efficiency class, reserved, SPE
        assert each[8:] == (0, 0, 0, 0, 0, 0, mpidr(index), 0, 0, 0)
    redist = DISTRIBUTOR - REDIST_SIZE * cpus
    assert struct.unpack("<BBHIQIB3s", found[cpus]) == (12, 24, 0, 0, DISTRIBUTOR, 0, 3, bytes(3))
    assert struct.unpack("<BBHQI", found[cpus + 1]) == (14, 16, 0, redist, REDIST_SIZE * cpus)
    assert struct.unpack("<BBHIQI", found[cpus + 2]) == (15, 20, 0, 0, redist - REDIST_SIZE, 0)
    assert len(found) == cpus + 3


def test_absent_processors() -> None:
    """One that can never come is not listed as one that may; with AML of its own it can."""
    cpus = [
        {"mpidr": 0},
        {"mpidr": 1, "enabled": False},
        {"mpidr": 2, "enabled": False, "aml": a.method("_STA", 0, a.return_(0))},
    ]
    found = structures(table(build(cpus=cpus), "APIC"))
    assert [struct.unpack_from("<I", each, 12)[0] for each in found[:3]] == [1, 0, 8]
    assert struct.unpack_from("<I", found[0], 20) == (0,)  # no PMU, no interrupt of it


@pytest.mark.parametrize(("psci", "flags"), [("hvc", 3), ("smc", 1)])
def test_fadt(psci: str, flags: int) -> None:
    fadt = table(build(psci=psci), "FACP")
    assert struct.unpack_from("<H", fadt, 129) == (flags,)
    assert struct.unpack_from("<I", fadt, 112)[0] & 1 << 20  # hardware-reduced
    assert fadt[116:128] == bytes(12)  # no reset register: PSCI does it


def test_timers_and_console() -> None:
    blob = build()
    gtdt = table(blob, "GTDT")
    assert [struct.unpack_from("<II", gtdt, 48 + 8 * n) for n in range(4)] == [
        *((29, 4), (30, 4), (27, 4), (26, 4)),  # level, active high, always on
    ]
    spcr = table(blob, "SPCR")
    assert spcr[36] == 3
    assert struct.unpack_from("<BBBBQBBI", spcr, 40) == (0, 32, 0, 3, 0x0900_0000, 8, 0, 32 + 11)


@pytest.mark.parametrize("count", [1, 16])
def test_segments_have_an_ecam_and_device_ids(count: int) -> None:
    blob = build(segments=segments(count))
    mcfg = table(blob, "MCFG")[44:]
    listed = [struct.unpack_from("<QHBB", mcfg, 16 * n) for n in range(count)]
    assert listed == [(0x3000_0000 + (n << 20), n, 0, 0) for n in range(count)]
    iort = table(blob, "IORT")
    nodes, place, _ = struct.unpack_from("<III", iort, 36)
    assert nodes == count + 1
    assert struct.unpack_from("<BH", iort, place) == (0, 24)  # ITS group
    seen = []
    at = place + 24
    for _ in range(count):
        kind, length, _, _, mappings, mapping_at = struct.unpack_from("<BHBIII", iort, at)
        coherent, _, _, flags, _, segment = struct.unpack_from("<IBHBII", iort, at + 16)
        assert (kind, mappings, coherent, flags) == (2, 1, 1, 3)
        first, last, device_id, to, single = struct.unpack_from("<IIIII", iort, at + mapping_at)
        assert (to, single) == (place, 0)
        seen.append((segment, first, last, device_id))
        at += length
    assert seen == [(n, 0, 0xFF, n << 8) for n in range(count)] and at == len(iort)


def test_whole_segment_goes_to_the_its() -> None:
    one = {"id": 7, "ecam": 1 << 32, "buses": (0, 255), "device_id": 0}
    iort = table(build(segments=[one]), "IORT")
    assert struct.unpack_from("<III", iort, len(iort) - 20) == (0, 0xFFFF, 0)


def test_namespace(iasl: Iasl) -> None:
    text = iasl.disassemble(table(build(segments=segments(2), reserved=[(0x0906_0000, 4096)]), "DSDT"))
    first, second = text[text.index("Device (PC00)") :].split("Device (PC01)")
    second, rest = second.split("Device (MBRD)")
    # GSI n is GSIV 32 + n; no CF8/CFC; coherent.
    routes = re.findall(r"0x0003FFFF, \s+(\w+), \s+Zero, \s+(\w+)", second)
    assert routes == [("Zero", "0x21"), ("0x02", "0x22")]
    assert "IO (Decode16" not in text and "0x0CF8" not in text
    assert "Name (_CCA, One)" in first
    for device, hid, base, gsiv in (
        ("COM1", "ARMH0011", "0x09000000", "0x0000002B"),
        ("GPI0", "ARMH0061", "0x09020000", "0x00000029"),
    ):
        body = rest[rest.index(f"Device ({device})") :]
        assert f'Name (_HID, "{hid}"' in body[:200]
        assert re.search(rf"Memory32Fixed \(ReadWrite,\s+{base},.*\n\s+0x00001000,", body)
        found = re.search(r"Interrupt \(ResourceConsumer, (\w+), (\w+), (\w+), ,, \)\s+{\s+(\w+),", body)
        assert found and found.groups() == ("Level", "ActiveHigh", "Exclusive", gsiv)
    events = rest[rest.index("Device (GED)") :]
    assert re.search(r"Interrupt \(ResourceConsumer, Level, ActiveHigh, .*\s+{\s+0x0000002A", events)
    assert "OperationRegion (GREG, SystemMemory, 0x09060000, One)" in events
    assert "_S5" not in text


def test_ports_of_the_bus_are_in_memory(iasl: Iasl) -> None:
    text = iasl.disassemble(table(build(), "DSDT"))
    window = text[text.index("DWordIO (") :]
    numbers = re.findall(r"0x([0-9A-F]{8}),", window)[:5]
    assert [int(number, 16) for number in numbers] == [0, 0, 0xFFFF, 0x0905_0000, 0x10000]
    assert "TypeTranslation" in window[:600]


def test_power_button(iasl: Iasl) -> None:
    caller, _ = iasl.compile(
        """DefinitionBlock ("", "SSDT", 2, "VMM", "CALLER", 1) {
            External (\\_SB.GED._EVT, MethodObj)
            External (\\_SB.GED.GDAT, FieldUnitObj)
            Method (EVNT, 1) { \\_SB.GED.GDAT = Arg0  \\_SB.GED._EVT (42)  Return (0) } }"""
    )
    blob = build()
    said = iasl.execute([table(blob, "DSDT"), table(blob, "FACP"), caller], ["\\EVNT 0xFF", "\\EVNT 0xF7"])
    assert len(re.findall(r"Notify on \[PWRB\] \S+ Value 0x80 ", "".join(said))) == 1


@pytest.mark.parametrize(
    ("topology", "containers"),
    [
        ([1, 16, 1, 1], {0}),
        ([1, 8, 2, 1], {0, 1, 2}),
        ([1, 8, 1, 2], {0, 1}),
        ([2, 2, 2, 2], set(range(14))),
    ],
)
def test_topology_agrees_between_pptt_madt_and_dsdt(
    iasl: Iasl, topology: list[int], containers: set[int]
) -> None:
    cpus = [{"mpidr": n, "uid": 100 + n} for n in range(16)]
    blob = build(cpus=cpus, topology=topology)
    pptt = table(blob, "PPTT")
    nodes = {at: struct.unpack_from("<BBHIIII", pptt, at) for at in range(36, len(pptt), 20)}
    assert all(node[3] & 2 for node in nodes.values())  # every id is that of a device
    leaves = {node[5]: node for node in nodes.values() if node[3] & 8}
    assert {node[5] for node in nodes.values() if not node[3] & 8} == containers
    gicc = structures(table(blob, "APIC"))[:16]
    assert list(leaves) == [struct.unpack_from("<I", each, 8)[0] for each in gicc]

    text = iasl.disassemble(table(blob, "DSDT"))
    text = text[text.index("Device (CPUS)") : text.index("Device (COM1)")]
    inside: dict[int, list[int]] = {}  # _UIDs of the containers around each processor, innermost first
    open_containers: list[tuple[int, int]] = []
    head = r"^( *)Device \(\w+\)\s+{\s+Name \(_HID, \"(\w+)\".*\n(?: +Name \(_CID.*\n)? +Name \(_UID, (\w+)\)"
    for indent, kind, uid in re.findall(head, text, re.M):
        number = ["Zero", "One"].index(uid) if uid in ("Zero", "One") else int(uid, 16)
        while open_containers and open_containers[-1][0] >= len(indent):
            open_containers.pop()
        if kind == "ACPI0010":
            open_containers.append((len(indent), number))
        else:
            inside[number] = [outer for _, outer in reversed(open_containers)]
    assert list(inside) == list(leaves)
    packages = [node[5] for node in nodes.values() if node[3] & 1]
    assert packages == list(range(topology[3]))
    for uid, node in leaves.items():
        path = []
        parent = node[4]
        while parent:
            path.append(nodes[parent][5])
            last, parent = nodes[parent], nodes[parent][4]
        assert last[3] & 1 and inside[uid][: len(path)] == path
        assert len(inside[uid]) == len(path) + (topology[3] > 1)  # CPUS around several packages


CPU_HOTPLUG = {"address": 0x0904_1000, "fixed": 2}
CALLER = """DefinitionBlock ("", "SSDT", 2, "VMM", "CALLER", 1) {
    External (\\_SB.GED._EVT, MethodObj)
    External (\\_SB.GED.GDAT, FieldUnitObj)
    External (PATH._STA, MethodObj)
    External (PATH._EJ0, MethodObj)
    OperationRegion (CREG, SystemMemory, 0x09041000, 12)
    Field (CREG, DWordAcc, NoLock, Preserve) { CSEL, 32, CSTA, 32 }
    Method (TELL, 1) { CSTA = Arg0  \\_SB.GED.GDAT = 1  \\_SB.GED._EVT (42) }
    Method (THER, 1) { CSTA = Arg0  Return (PATH._STA ()) }
    Method (EJEC) { CSTA = 0  PATH._EJ0 (1)  Return (CSEL << 8 | CSTA) }
}"""


@pytest.mark.parametrize(
    ("topology", "path"), [([1, 4, 1, 1], "CPUS.C003"), ([1, 2, 1, 2], "CPUS.P001.C003")]
)
def test_cpus_that_come_and_go(iasl: Iasl, topology: list[int], path: str) -> None:
    """A CPU that is not there is present and not enabled: Linux takes only such a one later."""
    cpus = [{"mpidr": n, "enabled": n < 2} for n in range(4)]
    blob = build(4, cpus=cpus, topology=topology, cpu_hotplug=CPU_HOTPLUG, scan={"memory": "\\SOME"},
                 extra=[a.method("\\SOME", 0)])
    assert_iasl_makes_the_same(iasl, table(blob, "DSDT"))
    found = structures(table(blob, "APIC"))[:4]
    assert [struct.unpack_from("<I", each, 12)[0] for each in found] == [1, 1, 8, 8]
    text = iasl.disassemble(table(blob, "DSDT"))
    assert text.count("Method (_EJ0") == text.count("Name (_MAT") == 2, "the others stay"
    caller, _ = iasl.compile(CALLER.replace("PATH", f"\\_SB.{path}"))
    calls = ["\\TELL 2", "\\TELL 4", "\\THER 0", "\\THER 1", "\\EJEC"]
    said = iasl.execute([table(blob, "DSDT"), caller], calls)
    told = [sorted(re.findall(r"Notify on \[(\w+)\] \S+ Value 0x0*(\d+) ", answer)) for answer in said[:2]]
    assert told == [[(f"C{n:03X}", value) for n in range(4)] for value in "13"]
    assert [returned(answer) for answer in said[2:]] == [0xD, 0xF, 3 << 8 | 8]


def test_numa_nodes() -> None:
    srat = table(build_key("NUMA"), "SRAT")[48:]
    cpus = [struct.unpack_from("<BBIII", srat, 18 * n) for n in range(2)]
    assert cpus == [(3, 18, 0, 0, 1), (3, 18, 1, 1, 1)]
    assert [struct.unpack_from("<BBI2sQQ", srat, 36 + 40 * n)[2:] for n in range(2)] == [
        *((n, bytes(2), (1 + n) << 30, 1 << 30) for n in range(2)),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ioapics": []}, "unknown ioapics"),
        ({"address": 8}, "multiple of 16"),
        ({"cpus": [{"mpidr": 0}, {"mpidr": 0}]}, "MPIDR occurs twice"),
        ({"cpus": [{"mpidr": 0, "pmu_ppi": 23}]}, "PPI 23"),
        ({"timers": (29, 30, 27, 26)}, "PPI 29"),
        ({"psci": "svc"}, "hvc or smc"),
        ({"topology": [1, 3, 1, 1]}, "4 CPUs"),
        ({"segments": [{"id": 0, "ecam": 0, "buses": (0, 1)}, {"id": 1, "ecam": 1}]}, "DeviceIDs 0x100"),
        ({"segments": [{"id": 1, "ecam": 0, "buses": (0, 255)}]}, "do not fit 0xffff"),
        ({"segments": [{"id": 0, "ecam": 0, "pio": (1 << 32, 0x10000)}]}, "32-bit address window"),
        ({"extra": [a.name("BIG", a.buffer(bytes(1 << 21)))]}, "2097152 fit"),
    ],
)
def test_bad_descriptions_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)


def linked(files: dict[str, bytes], places: dict[str, int]) -> dict[str, bytearray]:
    """What firmware makes of the files: runs the script with each file at a place of its choice.

    The commands are those of QEMU's docs/specs and EDK2's QemuLoader.h.
    """
    memory: dict[str, bytearray] = {}
    script = files["etc/table-loader"]
    assert len(script) % 128 == 0
    for at in range(0, len(script), 128):
        (command,) = struct.unpack_from("<I", script, at)
        rest = script[at + 4 : at + 128]
        file = rest[:56].rstrip(b"\0").decode()
        if command == 1:
            align, zone = struct.unpack_from("<IB", rest, 56)
            assert file not in memory and align <= 4096 and places[file] % align == 0 and zone in (1, 2)
            memory[file] = bytearray(files[file])
        elif command == 2:
            target = rest[56:112].rstrip(b"\0").decode()
            place, size = struct.unpack_from("<IB", rest, 112)
            value = int.from_bytes(memory[file][place : place + size], "little")
            assert value < len(files[target])
            memory[file][place : place + size] = (value + places[target]).to_bytes(size, "little")
        else:
            assert command == 3
            place, start, size = struct.unpack_from("<III", rest, 56)
            assert start <= place < start + size <= len(memory[file])
            memory[file][place] = -sum(memory[file][start : start + size]) & 0xFF
    return memory


@pytest.mark.parametrize("base", [0x4000_0000, 0x1_2345_6000])
@pytest.mark.parametrize("key", MACHINES)
def test_firmware_links_the_same_tables(key: str, base: int) -> None:
    blob = build_key(key)
    check_linked(blob, base)


def test_firmware_links_x86_tables_too() -> None:
    cpus = [{"apic_id": 0}]
    check_linked(
        build_x86({"address": 0xA0000, "cpus": cpus, "segments": [], "ioapics": [{"address": 0xFEC0_0000}]}),  # type: ignore[typeddict-item]
        0x7000_0000,
    )


def check_linked(blob: Blob, base: int) -> None:
    places = {"etc/acpi/rsdp": 0xF_0000, "etc/acpi/tables": base}
    memory = linked(loader_files(blob), places)
    # In a blob of their own, RSDP in front, they are found as in any other.
    rsdp, tables = memory["etc/acpi/rsdp"], memory["etc/acpi/tables"]
    again = Blob(base - 4096, bytes(rsdp).ljust(4096, b"\0") + bytes(tables), [])
    for signature, address, size in blob.tables[1:-1]:
        old, new = blob.data[address - blob.address :][:size], table(again, signature)
        if signature == "FACP":
            assert struct.unpack_from("<I", new, 40) == (0,)
            pointers = (9, *range(40, 44), *range(140, 148))
            old, new = (bytes(b for n, b in enumerate(each) if n not in pointers) for each in (old, new))
        assert new == old
