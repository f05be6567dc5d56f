# SPDX-License-Identifier: Apache-2.0
"""What the guest finds in memory, read back the way a kernel reads it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from vmmcore.errors import UserError

from vmm_arch_x86_64 import front

GIB = 1 << 30
LINUX64 = {"protocol": "linux64", "rip": 0x1000200, "setup_header": None, "initramfs": None}
PVH = {"protocol": "pvh", "rip": 0x1000000, "initramfs": None}


def u(memory: bytearray, fmt: str, at: int) -> int:
    return int(struct.unpack_from("<" + fmt, memory, at)[0])


def e820(memory: bytearray) -> list[tuple[int, int, int]]:
    return [struct.unpack_from("<QQI", memory, 0x72D0 + 20 * n) for n in range(memory[0x71E8])]


def header(**fields: int) -> bytes:
    """A setup header: cmdline_size, version; the rest a pattern to find again."""
    data = bytearray(b"\xa5" * 0x7B)
    struct.pack_into("<4sH", data, 0x202 - 0x1F1, b"HdrS", fields.get("version", 0x20F))
    struct.pack_into("<I", data, 0x238 - 0x1F1, fields.get("cmdline_size", 2047))
    return bytes(data)


def string(memory: bytearray, at: int) -> bytes:
    return bytes(memory[at:memory.index(0, at)])


def test_memory_map(context: Any) -> None:
    c = context(memory={"size": 5 * GIB})
    front.finish(c, LINUX64)
    assert e820(c.memory) == [
        (0, 0xA0000, 1), (0x100000, 3 * GIB - 0x100000, 1), (0xE8000000, 0x100000, 2), (4 * GIB, 2 * GIB, 1)]


def test_zero_page(context: Any) -> None:
    c = context(cmdline="console=ttyS0 a=ä", memory="512M")
    front.finish(c, {**LINUX64, "setup_header": header(), "initramfs": [0x1_2345_6000, 0x2_0000_0007]})
    m = c.memory
    assert string(m, u(m, "I", 0x7228) | u(m, "I", 0x70C8) << 32) == "console=ttyS0 a=ä".encode()
    assert u(m, "I", 0x7218) | u(m, "I", 0x70C0) << 32 == 0x1_2345_6000
    assert u(m, "I", 0x721C) | u(m, "I", 0x70C4) << 32 == 0x2_0000_0007
    assert m[0x7210] == 0xFF and m[0x7202:0x7206] == b"HdrS"
    assert m[0x71F1] == 0xA5 and m[0x726B] == 0xA5 and m[0x726C] == 0  # the kernel's own header, and no more
    rsdp = u(m, "Q", 0x7070)
    assert m[rsdp:rsdp + 8] == b"RSD PTR " and sum(m[rsdp:rsdp + 20]) % 256 == 0
    assert m[0x71EF] == 0  # sentinel


def test_zero_page_of_an_elf(context: Any) -> None:
    c = context()
    front.finish(c, LINUX64)
    assert u(c.memory, "H", 0x71FE) == 0xAA55 and c.memory[0x7202:0x7206] == b"HdrS"
    assert u(c.memory, "I", 0x7218) == 0 == u(c.memory, "I", 0x721C)


def translate(memory: bytearray, cr3: int, address: int) -> int | None:
    table = cr3
    for shift in (39, 30, 21, 12):
        entry = u(memory, "Q", table + (address >> shift & 511) * 8)
        if not entry & 1:
            return None
        if entry & 0x80 and shift in (21, 30):
            return (entry & 0xFFFFFFFFFF000 & -1 << shift) | address & ((1 << shift) - 1)
        table = entry & 0xFFFFFFFFFF000
    return table | address & 4095


def test_long_mode_entry(context: Any) -> None:
    c = context()
    front.finish(c, LINUX64)
    regs = c.plan["entry"]
    assert regs["cr0"] & 0x80000001 == 0x80000001 and regs["cr4"] & 0x20 and regs["efer"] & 0x500 == 0x500
    for address in (0, 0x7000, 0x20000, 0x1000200, GIB - 1):
        assert translate(c.memory, regs["cr3"], address) == address
    assert translate(c.memory, regs["cr3"], GIB) is None
    assert regs["rsi"] == 0x7000 and regs["rip"] == 0x1000200
    assert regs["cs"][0] == 0x10 and regs["ds"][0] == regs["ss"][0] == 0x18
    assert regs["cs"][1] & 0x2000  # L: 64-bit code
    gdt, limit = regs["gdt"]
    assert limit == 31
    # The descriptors in memory say what the segment registers hold.
    for name in ("cs", "ds"):
        selector, attributes = regs[name][:2]
        assert u(c.memory, "Q", gdt + selector) >> 40 & 0xF0FF == attributes
    assert u(c.memory, "H", 0x40E) << 4 == 0xA0000


def test_pvh(context: Any) -> None:
    c = context(memory={"size": 4 * GIB})
    front.finish(c, {**PVH, "initramfs": [0x8000000, 12345]})
    m, regs = c.memory, c.plan["entry"]
    start = regs["rbx"]
    magic, version, flags, modules, modlist, cmdline, rsdp, memmap, entries = struct.unpack_from(
        "<IIIIQQQQI", m, start)
    assert (magic, version, flags, modules) == (0x336EC578, 1, 0, 1)
    assert struct.unpack_from("<QQQQ", m, modlist) == (0x8000000, 12345, 0, 0)
    assert string(m, cmdline) == b"console=ttyS0" and m[rsdp:rsdp + 8] == b"RSD PTR "
    assert [struct.unpack_from("<QQI", m, memmap + 24 * n) for n in range(entries)] == [
        (0, 0xA0000, 1), (0x100000, 3 * GIB - 0x100000, 1), (0xE8000000, 0x100000, 2), (4 * GIB, GIB, 1)]
    assert regs["cr0"] & 0x80000001 == 1 and not regs.get("cr4") and not regs.get("efer")
    assert regs["rflags"] == 2 and regs["cs"][1:] == [0xC09B, 0, 0xFFFFFFFF]


def test_pvh_without_initramfs(context: Any) -> None:
    c = context()
    front.finish(c, PVH)
    assert u(c.memory, "I", 0x600C) == 0 == u(c.memory, "Q", 0x6010)


def test_command_line_limits(context: Any) -> None:
    fits = context(cmdline="x" * 2047)
    front.finish(fits, {**LINUX64, "setup_header": header(cmdline_size=2047)})
    with pytest.raises(UserError, match="--cmdline: 2048 bytes; this kernel takes 2047"):
        front.finish(context(cmdline="x" * 2048), {**LINUX64, "setup_header": header(cmdline_size=2047)})
    with pytest.raises(UserError, match="takes 255"):
        front.finish(context(cmdline="x" * 256), {**LINUX64, "setup_header": header(version=0x205)})
    front.finish(context(cmdline="x" * 65535), PVH)
    with pytest.raises(UserError, match="takes 65535"):
        front.finish(context(cmdline="x" * 65536), PVH)


def test_no_kernel(context: Any) -> None:
    with pytest.raises(UserError, match="--kernel"):
        front.finish(context(), None)


def test_too_many_cpus_for_the_tables(context: Any) -> None:
    with pytest.raises(UserError, match="--cpus max=: 8192"):
        front.finish(context(cpus={"boot": 8192}), PVH)


def acpi_tables(memory: bytearray) -> dict[bytes, bytes]:
    xsdt = u(memory, "Q", 0xA0000 + 24)
    found = {}
    for n in range((u(memory, "I", xsdt + 4) - 36) // 8):
        at = u(memory, "Q", xsdt + 36 + 8 * n)
        assert at >= 0xA0000 and at + u(memory, "I", at + 4) <= 0xF0000  # inside the hole
        found[bytes(memory[at:at + 4])] = bytes(memory[at:at + u(memory, "I", at + 4)])
    at = u(bytearray(found[b"FACP"]), "Q", 140)
    found[b"DSDT"] = bytes(memory[at:at + u(memory, "I", at + 4)])
    return found


def test_acpi(context: Any) -> None:
    c = context(cpus={"boot": 3, "max": 4, "topology": [2, 2, 1, 1]}, nodes=[[b"\x08NODA\x0a\x2a"], []])
    front.finish(c, PVH)
    tables = acpi_tables(c.memory)
    assert all(sum(table) % 256 == 0 for table in tables.values())
    madt, at, cpus, overrides = tables[b"APIC"], 44, [], []
    while at < len(madt):
        kind, length = madt[at:at + 2]
        if kind == 0:
            cpus.append((madt[at + 3], u(bytearray(madt), "I", at + 4)))
        if kind == 2:
            overrides.append((madt[at + 3], u(bytearray(madt), "I", at + 4)))
        at += length
    assert cpus == [(0, 1), (1, 1), (2, 1), (3, 2)]  # the fourth is online capable only
    assert overrides == [(4, 4)]
    assert b"NODA\x0a\x2a" in tables[b"DSDT"]
    assert u(bytearray(tables[b"MCFG"]), "Q", 44) == 0xE8000000
    fadt = bytearray(tables[b"FACP"])
    assert u(fadt, "I", 112) >> 20 & 1  # HW_REDUCED_ACPI
    assert u(fadt, "H", 109) & 0x22 == 0  # no 8042; and the clock is there
    assert u(fadt, "Q", 120) == 0x600 and fadt[128] == 1  # reset register and value


def test_platform_plan(context: Any) -> None:
    c = context(cpus={"boot": 2})
    front.finish(c, PVH)
    platform = c.plan["platform"]
    base, size = c.layout.extra["platform_mmio"]
    assert base <= platform["ged"]["address"] <= base + size - 4096
    assert platform["ged"]["gsi"] == 13
    assert {(0x600, 1), (0x608, 4), (0x70, 2), (platform["ged"]["address"], 4096)} <= set(c.claims)
    assert (platform["pci_hotplug"]["address"], 4096) in c.claims


def smbios_dump(memory: bytearray) -> bytes:
    """As dmidecode's --dump-bin writes it: entry point at 0, table at 32."""
    entry = bytearray(memory[0xF0000:0xF0018])
    at, size = u(memory, "Q", 0xF0010), u(memory, "I", 0xF000C)
    table = memory[at:at + size]
    struct.pack_into("<Q", entry, 16, 32)
    entry[5] = 0
    entry[5] = -sum(entry) & 0xFF
    return bytes(entry + bytes(8) + table)


def test_smbios(context: Any) -> None:
    c = context()
    front.finish(c, PVH)
    m = c.memory
    assert m[0xF0000:0xF0005] == b"_SM3_" and sum(m[0xF0000:0xF0018]) % 256 == 0
    at, end = u(m, "Q", 0xF0010), u(m, "Q", 0xF0010) + u(m, "I", 0xF000C)
    kinds = []
    while at < end:
        kinds.append(m[at])
        at = m.index(b"\0\0", at + m[at + 1]) + 2
    assert at == end and kinds == [0, 1, 32, 127]


def test_dmidecode(context: Any, tmp_path: Path) -> None:
    if not (dmidecode := shutil.which("dmidecode", path="/usr/sbin:/usr/bin")):
        pytest.skip("dmidecode is missing: apt install dmidecode")
    c = context()
    front.finish(c, PVH)
    dump = tmp_path / "dmi"
    dump.write_bytes(smbios_dump(c.memory))
    run = subprocess.run([dmidecode, "--from-dump", dump], capture_output=True, text=True, check=True)
    assert "Manufacturer: vmm" in run.stdout and "System Information" in run.stdout
    assert not any(word in run.stdout + run.stderr for word in ("TRUNCATED", "BAD", "Wrong", "nvalid"))
