# SPDX-License-Identifier: Apache-2.0
"""The device tree as a kernel reads it, read back with the library's own parser (and by dtc where there is one)."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import fdt
import pytest
from vmmcore.errors import PluginError, UserError, VmmError

from vmm_arch_aarch64 import cpus, front

ENTRY = {"protocol": "arm64", "pc": 0x40400000, "initramfs": [0x48000000, 0x1234]}
FDT = 0x40000000


def tree_of(context: Any, entry: dict[str, Any] | None = None) -> Any:
    front.finish(context, entry or ENTRY)
    return fdt.parse_dtb(context.loads[FDT])


def value(tree: Any, path: str, name: str) -> list[Any]:
    found = tree.get_property(name, path)
    assert found is not None, f"{path}/{name}"
    return list(found)


def cells(*numbers: int) -> list[int]:
    return [part for number in numbers for part in (number >> 32, number & 0xFFFFFFFF)]


def test_what_the_kernel_is_told(context: Any) -> None:
    serial = {"type": "serial", "resources": {"address": 0x9000000, "gsi": 11, "fdt_stdout": "/pl011@9000000"}}
    made = context(cmdline="console=ttyAMA0 quiet", devices=[serial], memory="3G")
    tree = tree_of(made)
    assert value(tree, "/chosen", "bootargs") == ["console=ttyAMA0 quiet"]
    assert value(tree, "/chosen", "stdout-path") == ["/pl011@9000000"]
    assert value(tree, "/chosen", "linux,initrd-start") == cells(0x48000000)
    assert value(tree, "/chosen", "linux,initrd-end") == cells(0x48001234)
    assert value(tree, "/memory@40000000", "reg") == cells(0x40000000, 0xBC000000)
    assert value(tree, "/memory@100000000", "reg") == cells(1 << 32, 64 << 20)
    assert made.plan["entry"] == {"pc": 0x40400000, "x0": FDT}


def test_random_bytes_are_where_the_runner_writes_them(context: Any) -> None:
    made = context()
    front.finish(made, ENTRY)
    data = bytearray(made.loads[FDT])
    for gpa, size in made.plan["platform"]["seeds"]:
        data[gpa - FDT : gpa - FDT + size] = b"\x5a" * size
    tree = fdt.parse_dtb(bytes(data))
    assert value(tree, "/chosen", "kaslr-seed") in (["Z" * 8], [0x5A5A5A5A] * 2)
    assert value(tree, "/chosen", "rng-seed") in (["Z" * 64], [0x5A5A5A5A] * 16)


def test_cpus_are_at_their_affinities(context: Any) -> None:
    tree = tree_of(context(cpus={"boot": 17, "max": 18}))
    names = [node.name for node in tree.get_node("/cpus").nodes if node.name.startswith("cpu@")]
    assert names == [*(f"cpu@{n:x}" for n in range(16)), "cpu@100"]  # 16 at the lowest level; those that run
    assert value(tree, "/cpus/cpu@100", "reg") == [0x100]
    assert value(tree, "/cpus/cpu@100", "enable-method") == ["psci"]


def test_topology(context: Any) -> None:
    tree = tree_of(context(cpus="boot=8,topology=2:1:2:2"))
    handles = [value(tree, f"/cpus/cpu@{n}", "phandle")[0] for n in range(8)]
    found = [
        value(tree, f"/cpus/cpu-map/socket{s}/cluster{c}/core0/thread{t}", "cpu")[0]
        for s in range(2) for c in range(2) for t in range(2)
    ]
    assert found == handles
    assert len(set(handles)) == 8


def test_interrupt_controller_has_room_for_every_cpu(context: Any) -> None:
    made = context(cpus="boot=2,max=4")
    tree = tree_of(made)
    assert value(tree, "/intc@8ff0000", "reg") == cells(0x08FF0000, 0x10000, 0x08FF0000 - 4 * 0x20000, 4 * 0x20000)
    its = 0x08FF0000 - 5 * 0x20000
    assert value(tree, f"/intc@8ff0000/msi-controller@{its:x}", "reg") == cells(its, 0x20000)
    assert (its, 0x08FF0000 + 0x10000 - its) in made.claims


def test_pci(context: Any) -> None:
    tree = tree_of(context(memory="1G"))
    node = "/pcie@30000000"
    assert value(tree, node, "reg") == cells(0x30000000, 1 << 20)
    ranges = value(tree, node, "ranges")
    windows = {tuple(ranges[n : n + 3]): ranges[n + 3 : n + 7] for n in range(0, len(ranges), 7)}
    assert windows[0x01000000, 0, 0] == cells(0x09050000, 0x10000)
    assert windows[0x02000000, 0, 0x10000000] == cells(0x10000000, 0x20000000)
    assert windows[0x03000000, 2, 0] == cells(8 << 30, 2 << 30)
    assert windows[0x43000000, 2, 0x80000000] == cells(10 << 30, (1 << 40) - (10 << 30))
    (its,) = value(tree, "/intc@8ff0000/msi-controller@8fb0000", "phandle")
    assert value(tree, node, "msi-map") == [0, its, 0, 0x100]
    lines = value(tree, node, "interrupt-map")
    (gic,) = value(tree, "/intc@8ff0000", "phandle")
    assert lines[30:40] == [3 << 11, 0, 0, 1, gic, 0, 0, 0, 3, 4]  # slot 3 has SPI 3
    assert value(tree, node, "interrupt-map-mask") == [7 << 11, 0, 0, 7]


def test_nodes_of_plugins(context: Any) -> None:
    node = {"compatible": ["a,b", "c"], "reg": [0, 1], "number": 7, "raw": b"\1\2\3", "flag": True, "inner": {"x": 1}}
    tree = tree_of(context(nodes=[[("thing@1", node)], []]))
    assert value(tree, "/thing@1", "compatible") == ["a,b", "c"]
    assert value(tree, "/thing@1", "number") == [7]
    assert value(tree, "/thing@1/inner", "x") == [1]
    assert tree.exist_property("flag", "/thing@1")
    with pytest.raises(PluginError, match="thing@1: number"):
        tree_of(context(nodes=[[("thing@1", {"number": 1.5})]]))
    with pytest.raises(PluginError, match="two plugins"):
        tree_of(context(nodes=[[("psci", {})]]))


def test_features_on_request(context: Any) -> None:
    made = context(cpus={"features": ["no-pmu", "no-sve"]})
    tree = tree_of(made)
    assert made.plan["platform"]["features"] == cpus.PAUTH
    assert not tree.exist_node("/pmu")
    assert tree_of(context()).exist_node("/pmu")
    with pytest.raises(UserError, match="no-sve"):
        tree_of(context(cpus={"features": ["sve9"]}))


def test_what_cannot_be_booted(context: Any) -> None:
    with pytest.raises(UserError, match="--kernel"):
        front.finish(context(), None)
    with pytest.raises(VmmError, match="linux64"):
        front.finish(context(), {"protocol": "linux64"})
    front.finish(context(cmdline="x" * 2047), ENTRY)
    with pytest.raises(UserError, match="--cmdline"):
        front.finish(context(cmdline="x" * 2048), ENTRY)


def test_firmware_has_acpi_tables(context: Any) -> None:
    entry = {"protocol": "firmware", "pc": 0}
    made = context(cpus="2")
    front.finish(made, entry)
    assert made.loads[0x40200000].startswith(b"RSD PTR ")
    assert made.plan["entry"] == {"pc": 0, "x0": FDT}
    assert made.plan["platform"]["ged"]["gsi"] == 10
    assert made.plan["platform"]["pci_hotplug"] == {"address": 0x09043000}
    assert b"PHPR" in made.loads[0x40200000]
    assert (0x09043000, 4096) in made.claims
    front.finish(made := context(), ENTRY)  # a device tree has no events
    assert "ged" not in made.plan["platform"]
    assert "pci_hotplug" not in made.plan["platform"]
    made = context(devices=[{"type": "fw-cfg", "resources": {}}])
    front.finish(made, entry)
    assert list(made.loads) == [FDT]  # fw_cfg hands the tables over
    assert made.layout.extra["acpi"].data.startswith(b"RSD PTR ")


def test_cpus_that_come_later(context: Any) -> None:
    entry = {"protocol": "firmware", "pc": 0}
    made = context(cpus="boot=2,max=4")
    front.finish(made, entry)
    assert made.plan["platform"]["cpu_hotplug"] == {"address": 0x09041000, "fixed": 2}
    assert b"PRES" in made.loads[0x40200000]
    assert (0x09041000, 4096) in made.claims
    front.finish(made := context(cpus="2"), entry)
    assert "cpu_hotplug" not in made.plan["platform"]
    front.finish(made := context(cpus="boot=2,max=4"), ENTRY)  # nobody would tell the guest
    assert "cpu_hotplug" not in made.plan["platform"]


def test_memory_that_comes_later(context: Any) -> None:
    entry = {"protocol": "firmware", "pc": 0}
    made = context(memory="512M,hotplug_size=1G")
    front.finish(made, entry)
    assert made.plan["platform"]["memory_hotplug"] == {"address": 0x09042000, "slots": 8}
    assert b"MHPC" in made.loads[0x40200000]
    assert (0x09042000, 4096) in made.claims
    assert made.layout.hotplug == {"": (4 << 30, 1 << 30)}
    assert made.layout.segments[0]["mmio64"][0] >= 5 << 30
    with pytest.raises(UserError, match=r"--memory hotplug_method=: .* use hotplug_method=virtio-mem"):
        front.finish(context(memory="512M,hotplug_size=1G"), ENTRY)
    made = context(memory="512M,hotplug_method=virtio-mem,hotplug_size=1G")
    front.finish(made, ENTRY)
    assert "memory_hotplug" not in made.plan["platform"]


def test_nodes_are_in_the_firmwares_tables(context: Any) -> None:
    from vmmcore.front import zones

    made = context(cpus=2, memory_zones=["id=a,size=512M", "id=b,size=512M"],
                   numa=["guest_numa_id=0,cpus=0,memory_zones=a", "guest_numa_id=1,cpus=1,memory_zones=b"])
    made.plan["memory"] = {"zones": zones.plan_zones(made.config, made.layout.ram, {})}
    front.finish(made, {"protocol": "firmware", "pc": 0})
    assert b"SRAT" in made.loads[0x40200000]
    assert b"SLIT" in made.loads[0x40200000]
    numa = ["guest_numa_id=3,cpus=0,memory_zones=a"]
    made = context(memory_zones=["id=a,size=512M"], numa=numa,
                   devices=[{"type": "flash", "resources": {"code": [0, 64 << 20], "vars": [64 << 20, 1 << 20]}}])
    made.plan["memory"] = {"zones": zones.plan_zones(made.config, made.layout.ram, {})}
    front.finish(made, {"protocol": "firmware", "pc": 0})
    flash = (3).to_bytes(4, "little") + bytes(2) + (64 << 20).to_bytes(8, "little") + (1 << 20).to_bytes(8, "little")
    assert flash in made.loads[0x40200000]  # EDK2 lists it as memory: it is in a node, too


def test_nodes_are_in_the_tree(context: Any) -> None:
    from vmmcore.front import zones

    made = context(cpus=2, memory_zones=["id=a,size=512M", "id=b,size=4G"], platform="num_pci_segments=2",
                   numa=["guest_numa_id=0,cpus=0,memory_zones=a,distances=[1@25]",
                         "guest_numa_id=1,cpus=1,memory_zones=b,pci_segments=[1]"])
    made.plan["memory"] = {"zones": zones.plan_zones(made.config, made.layout.ram, {})}
    tree = tree_of(made)
    assert [tree.get_property("numa-node-id", f"/cpus/cpu@{n}").value for n in (0, 1)] == [0, 1]
    memory = {node.name: node.get_property("numa-node-id").value for node in tree.root.nodes if "memory" in node.name}
    assert memory == {"memory@40000000": 0, "memory@60000000": 1, "memory@100000000": 1}
    assert tree.get_property("numa-node-id", "/pcie@30100000").value == 1
    assert list(tree.get_property("distance-matrix", "/distance-map").data) == [0, 0, 10, 0, 1, 25, 1, 0, 25, 1, 1, 10]


def test_dtc_finds_no_fault(context: Any) -> None:
    if not shutil.which("dtc"):
        pytest.skip("dtc is missing: apt install device-tree-compiler")
    made = context(cpus="boot=4,topology=2:2:1:1", memory="3G")
    front.finish(made, ENTRY)
    done = subprocess.run(["dtc", "-I", "dtb", "-O", "dts"], input=made.loads[FDT], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"Warning" not in done.stderr, done.stderr.decode()
