# SPDX-License-Identifier: Apache-2.0
"""What the guest is told of CPUs and memory that may come, of NUMA nodes and PCI segments; tables after a reboot."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from test_boot import LINUX64, PVH
from vmmcore.errors import UserError
from vmmcore.front import zones

from vmm_arch_x86_64 import front, machine

MIB, GIB = 1 << 20, 1 << 30
ZONES = ["id=a,size=1G", "id=b,size=5G,hotplug_size=1G"]
NODES = ["guest_numa_id=0,cpus=[0,1],distances=[1@30],memory_zones=a",
         "guest_numa_id=1,cpus=[2,3],memory_zones=[b],pci_segments=[1]"]


def finished(context: Any, entry: dict[str, Any] = LINUX64, **config: Any) -> Any:
    made = context(**config)
    made.plan["memory"] = {"zones": zones.plan_zones(made.config, made.layout.ram, {})}
    front.finish(made, entry)
    return made


def tables(c: Any) -> dict[str, bytes]:
    """Tables by signature, as a guest finds them."""
    def at(address: int) -> bytes:
        found = bytes(c.memory[address : address + int.from_bytes(c.memory[address + 4 : address + 8], "little")])
        assert sum(found) % 256 == 0
        return found

    xsdt = at(int.from_bytes(c.memory[0xA0018:0xA0020], "little"))
    found = [at(address) for (address,) in struct.iter_unpack("<Q", xsdt[36:])]
    named = {table[:4].decode(): table for table in found}
    named["DSDT"] = at(struct.unpack_from("<Q", named["FACP"], 140)[0])
    return named


def structures(table: bytes, start: int) -> list[tuple[int, bytes]]:
    found = []
    while start < len(table):
        found.append((table[start], table[start : start + table[start + 1]]))
        start += table[start + 1]
    return found


def test_registers_are_apart_and_only_where_they_are_needed(context: Any) -> None:
    plain = finished(context).plan["platform"]
    assert "cpu_hotplug" not in plain and "memory_hotplug" not in plain
    c = finished(context, cpus="boot=1,max=2", memory="512M,hotplug_size=1G")
    parts = ("ged", "cpu_hotplug", "memory_hotplug", "pci_hotplug")
    pages = [c.plan["platform"][part]["address"] for part in parts]
    assert len({page >> 12 for page in pages}) == 4 and all(page % 4096 == 0 for page in pages)
    base, size = c.layout.extra["platform_mmio"]
    assert all(base <= page < base + size and (page, 4096) in c.claims for page in pages)
    dsdt = tables(c)["DSDT"]
    assert b"PRES" in dsdt and b"MHPC" in dsdt
    assert b"MHPC" not in tables(finished(context, memory="512M,hotplug_method=virtio-mem,hotplug_size=1G"))["DSDT"]


def test_room_for_memory_is_between_ram_and_devices(context: Any) -> None:
    for size, base in (("512M", 4 * GIB), ("5G", 6 * GIB), ("4100M", 5 * GIB + 128 * MIB)):
        layout = context(memory=f"{size},hotplug_size=3G").layout
        assert layout.hotplug == {"": (base, 3 * GIB)}
        assert layout.segments[0]["mmio64"][0] >= base + 3 * GIB
    with pytest.raises(UserError, match="do not fit in 40 physical address bits"):
        context(memory="512M,hotplug_size=1T", cpus="max_phys_bits=40")


def test_nodes_are_in_srat_and_slit(context: Any) -> None:
    c = finished(context, cpus=4, memory="hotplug_method=virtio-mem", memory_zones=ZONES, numa=NODES,
                 platform="num_pci_segments=2")
    found = tables(c)
    srat = structures(found["SRAT"], 48)
    assert [data[2] for kind, data in srat if kind == 0] == [0, 0, 1, 1]
    memory = [struct.unpack_from("<I2xQQ4xI", data, 2) for kind, data in srat if kind == 1]
    assert memory == [(0, 0, GIB, 1), (1, GIB, 2 * GIB, 1), (1, 4 * GIB, 3 * GIB, 1), (1, 7 * GIB, GIB, 3)]
    assert found["SLIT"][36:44] == (2).to_bytes(8, "little") and list(found["SLIT"][44:]) == [10, 30, 30, 10]
    assert b"PC01" in found["DSDT"] and b"_PXM" in found["DSDT"]


def test_weights_share_the_windows(context: Any) -> None:
    layout = context(platform="num_pci_segments=3",
                     pci_segments=["pci_segment=1,mmio32_aperture_weight=2,mmio64_aperture_weight=6"]).layout
    sizes = [(segment["mmio32"][1], segment["mmio64"][1]) for segment in layout.segments]
    assert sizes[0] == sizes[2]
    assert sizes[1] == (2 * sizes[0][0], 6 * sizes[0][1])
    assert all(size % 4096 == 0 and high % (4 * GIB) == 0 for size, high in sizes)


def test_smbios_says_what_the_platform_is(context: Any) -> None:
    c = finished(context, platform="serial_number=4711,uuid=00112233-4455-6677-8899-aabbccddeeff,oem_strings=[one,two]")
    low = bytes(c.memory[0xF0000:0x100000])
    assert b"\x004711\0" in low and b"one\0two\0\0" in low
    assert bytes.fromhex("33221100554477668899aabbccddeeff") in low


class Machine:
    """Guest memory for the runner's half, with the plan of `c`."""

    def __init__(self, c: Any, boot: int) -> None:
        self.bytes = c.memory
        self.plan = {"platform": c.plan["platform"], "cpus": {"boot": boot}}
        self.memory = SimpleNamespace(read=lambda at, size: bytes(self.bytes[at : at + size]), write=self.write)

    def write(self, at: int, data: bytes) -> None:
        self.bytes[at : at + len(data)] = data

    def platform(self) -> Any:
        platform = machine.Platform.__new__(machine.Platform)
        platform.machine, platform._plan = self, self.plan["platform"]
        return platform


@pytest.mark.parametrize("topology", ["", ",topology=2:100:1:2"])  # the second has x2APIC entries
def test_madt_after_a_reboot_lists_the_cpus_that_are_there(context: Any, topology: str) -> None:
    most = 400 if topology else 4
    c = finished(context, cpus=f"boot=2,max={most}{topology}")
    for boot in (3, 1, 4, 2):
        Machine(c, boot).platform()._say_which_cpus()
        madt = structures(tables(c)["APIC"], 44)
        flags = [data[8] if kind else data[4] for kind, data in madt if kind in (0, 9)]
        if boot != 2:  # as it was made: left as it is
            assert flags == [1] * boot + [2] * (most - boot)


@pytest.mark.parametrize("entry", [LINUX64, PVH], ids=["zero page", "PVH"])
def test_memory_map_after_a_reboot_has_the_memory_that_was_plugged_in(context: Any, entry: dict[str, Any]) -> None:
    c = finished(context, entry, memory="512M,hotplug_size=1G")
    platform = Machine(c, 1).platform()
    assert platform.map_ram(4 * GIB, 256 * MIB)
    if entry is LINUX64:
        last = struct.unpack_from("<QQI", c.memory, 0x72D0 + 20 * (c.memory[0x71E8] - 1))
    else:
        count = int.from_bytes(c.memory[0x6030:0x6034], "little")
        last = struct.unpack_from("<QQI", c.memory, 0x7000 + 24 * (count - 1))
    assert last == (4 * GIB, 256 * MIB, 1)
    for n in range(200):
        if not platform.map_ram(n << 40, MIB):
            assert n > 100
            return
    raise AssertionError("the map has no end")
