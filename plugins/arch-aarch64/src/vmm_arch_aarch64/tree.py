# SPDX-License-Identifier: Apache-2.0
"""The flattened device tree (Devicetree Specification 0.4): built with the package ``fdt`` from nested dicts.

Bindings: Linux ``Documentation/devicetree/bindings``, named at each node. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import pack

from vmmcore.errors import PluginError

from . import addresses as at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.hooks import Property

    Node = dict[str, Property]

SPI, PPI = 0, 1
LEVEL_HIGH = 4
CLOCK_HZ = 24_000_000
#: what stands for random bytes until the runner writes some, at each boot; in no string, as NULs are inside
KASLR_SEED, RNG_SEED = b"\0kaslr\0\xff", b"\0rng\0" + b"\xff" * 59


def cells(*numbers: int) -> list[int]:
    """Each number in two cells."""
    return [part for number in numbers for part in (number >> 32, number & 0xFFFFFFFF)]


def encode(value: Any) -> bytes:
    """The bytes of a property (see ``vmm_fdt_nodes``). Raises TypeError."""
    if value is True:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return pack(">I", value & 0xFFFFFFFF)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape") + b"\0"
    return b"".join(encode(part) for part in value)


def blob(root: Node) -> bytes:
    """The tree as the guest reads it. Raises PluginError for a node that cannot be written."""
    import fdt

    tree = fdt.FDT()
    tree.header.version, tree.header.last_comp_version, tree.header.boot_cpuid_phys = 17, 16, 0
    _fill(fdt, tree.root, root, "")
    found: bytes = tree.to_dtb()
    if len(found) > at.FDT_SIZE:
        raise PluginError(f"the device tree has {len(found)} bytes, {at.FDT_SIZE} fit; configure fewer devices")
    return found


def _fill(fdt: Any, node: Any, content: Mapping[str, Any], path: str) -> None:
    for name, value in content.items():
        if isinstance(value, Mapping):
            child = fdt.Node(name)
            node.append(child)
            _fill(fdt, child, value, f"{path}/{name}")
        else:
            try:
                data = encode(value)
            except TypeError as error:
                raise PluginError(f"device tree: {path or '/'}: {name}: {error}") from None
            node.append(fdt.PropBytes(name, data=data) if data else fdt.Property(name))


def machine(
    *,
    ram: Sequence[Sequence[int]],
    cmdline: str,
    initramfs: Sequence[int] | None,
    mpidrs: Sequence[int],
    topology: Sequence[int],
    gic: Mapping[str, Any],
    segments: Sequence[Mapping[str, Any]],
    pci_gsis: Sequence[int],
    phandles: Mapping[str, int],
    pmu: bool,
    stdout: str | None,
    more: Sequence[tuple[str, Node]],
) -> Node:
    """The whole tree; the arguments are as in the plan. `more` are the nodes of plugins."""
    root: Node = {
        "compatible": "linux,dummy-virt",
        "model": "vmm",
        "#address-cells": 2,
        "#size-cells": 2,
        "interrupt-parent": phandles["gic"],
        "chosen": chosen(cmdline, initramfs, stdout),
        "cpus": cpus(mpidrs, topology),
        "psci": {"compatible": ["arm,psci-1.0", "arm,psci-0.2"], "method": "hvc"},  # arm/psci.yaml
        "timer": {  # timer/arm,arch_timer.yaml
            "compatible": "arm,armv8-timer",
            "interrupts": [n for ppi in at.TIMER_PPIS for n in (PPI, ppi, LEVEL_HIGH)],
            "always-on": True,
        },
        "apb-pclk": {  # clock/fixed-clock.yaml
            "compatible": "fixed-clock",
            "#clock-cells": 0,
            "clock-frequency": CLOCK_HZ,
            "clock-output-names": "clk24mhz",
            "phandle": phandles["clock"],
        },
    }
    for base, size in ram:
        root[f"memory@{base:x}"] = {"device_type": "memory", "reg": cells(base, size)}
    if pmu:
        root["pmu"] = {"compatible": "arm,armv8-pmuv3", "interrupts": [PPI, at.PMU_PPI, LEVEL_HIGH]}  # arm/pmu.yaml
    root[f"intc@{gic['dist']:x}"] = interrupt_controller(gic, phandles)
    for segment in segments:
        root[f"pcie@{segment['ecam']:x}"] = host_bridge(segment, pci_gsis, phandles)
    for name, node in more:
        if name in root:
            raise PluginError(f"device tree: two plugins have a node /{name}")
        root[name] = node
    return root


def add_nodes(
    root: Node,
    nodes: Mapping[str, Mapping[int | str, int]],
    zones: Mapping[str, Sequence[Sequence[int]]],
    segments: Sequence[Mapping[str, Any]],
    distances: Sequence[Sequence[int]],
) -> None:
    """NUMA nodes (Linux Documentation/devicetree/bindings/numa.txt); the arguments as for `vmm_acpi.numa.describe`."""
    processors = [node for name, node in _inside(root, "cpus") if name.startswith("cpu@")]
    for index, node in enumerate(processors):
        node["numa-node-id"] = nodes["cpus"][index]
    for name in [name for name in root if name.startswith("memory@")]:
        del root[name]
    for zone, places in zones.items():
        for base, size in places:
            root[f"memory@{base:x}"] = {
                "device_type": "memory", "reg": cells(base, size), "numa-node-id": nodes["memory_zones"][zone],
            }
    for segment in segments:
        if segment["id"] in nodes["pci_segments"]:
            bridge = root[f"pcie@{segment['ecam']:x}"]
            assert isinstance(bridge, dict)
            bridge["numa-node-id"] = nodes["pci_segments"][segment["id"]]
    matrix = [n for a, row in enumerate(distances) for b, distance in enumerate(row) for n in (a, b, distance)]
    root["distance-map"] = {"compatible": "numa-distance-map-v1", "distance-matrix": matrix}


def _inside(root: Node, name: str) -> list[tuple[str, Node]]:
    node = root[name]
    assert isinstance(node, dict)
    return [(key, value) for key, value in node.items() if isinstance(value, dict)]


def chosen(cmdline: str, initramfs: Sequence[int] | None, stdout: str | None) -> Node:
    """What the kernel is told (schema: devicetree.org chosen.yaml)."""
    node: Node = {"bootargs": cmdline, "kaslr-seed": KASLR_SEED, "rng-seed": RNG_SEED}
    if initramfs:
        start, size = initramfs
        node |= {"linux,initrd-start": cells(start), "linux,initrd-end": cells(start + size)}
    if stdout:
        node["stdout-path"] = stdout
    return node


def cpus(mpidrs: Sequence[int], topology: Sequence[int]) -> Node:
    """arm/cpus.yaml, cpu/cpu-topology.txt."""
    threads, cores, clusters, _sockets = topology
    first = 0x80  # phandles of CPUs
    node: Node = {"#address-cells": 1, "#size-cells": 0}
    sockets: dict[str, Any] = {}
    for index, mpidr in enumerate(mpidrs):
        node[f"cpu@{mpidr:x}"] = {
            "device_type": "cpu",
            "compatible": "arm,armv8",
            "reg": mpidr,
            "enable-method": "psci",
            "phandle": 0x10000 + first + index,
        }
        whole_core, thread = divmod(index, threads)
        whole_cluster, core = divmod(whole_core, cores)
        socket, cluster = divmod(whole_cluster, clusters)
        place = sockets
        names = [f"socket{socket}", f"cluster{cluster}", f"core{core}", *([f"thread{thread}"] if threads > 1 else [])]
        for name in names:
            place = place.setdefault(name, {})
        place["cpu"] = 0x10000 + first + index
    node["cpu-map"] = sockets
    return node


def interrupt_controller(gic: Mapping[str, Any], phandles: Mapping[str, int]) -> Node:
    """interrupt-controller/arm,gic-v3.yaml, with the ITS inside."""
    node: Node = {
        "compatible": "arm,gic-v3",
        "interrupt-controller": True,
        "#interrupt-cells": 3,
        "#address-cells": 2,
        "#size-cells": 2,
        "ranges": True,
        "reg": cells(gic["dist"], at.GIC_DIST_SIZE, *gic["redist"]),
        "phandle": phandles["gic"],
    }
    node[f"msi-controller@{gic['its']:x}"] = {
        "compatible": "arm,gic-v3-its",
        "msi-controller": True,
        "#msi-cells": 1,
        "reg": cells(gic["its"], at.GIC_ITS_SIZE),
        "phandle": phandles["its"],
    }
    return node


def host_bridge(segment: Mapping[str, Any], pci_gsis: Sequence[int], phandles: Mapping[str, int]) -> Node:
    """pci/host-generic-pci.yaml; IEEE 1275 PCI bus binding for ranges and interrupt-map."""
    io, mmio32, mmio64, prefetchable = 0x01000000, 0x02000000, 0x03000000, 0x40000000
    ranges: list[int] = []
    if segment["pio"][1]:
        ranges += [io, *cells(0, at.PORTS, at.PORTS_SIZE)]
    ranges += [mmio32, *cells(segment["mmio32"][0], *segment["mmio32"])]
    base, size = segment["mmio64"]
    if size:  # a window of 4 GiB or more must be prefetchable: Linux warns of any other; firmware uses only the other
        plain = size if size < 4 * at.GIB else 2 * at.GIB
        ranges += [mmio64, *cells(base, base, plain)]
        if size > plain:
            ranges += [mmio64 | prefetchable, *cells(base + plain, base + plain, size - plain)]
    lines: list[int] = []  # INTA of slot n; a power of two of them, so that a mask of the slot's low bits does
    for slot, gsi in enumerate(pci_gsis):
        lines += [slot << 11, 0, 0, 1, phandles["gic"], 0, 0, SPI, gsi, LEVEL_HIGH]
    number = segment["id"]
    return {
        "compatible": "pci-host-ecam-generic",
        "device_type": "pci",
        "#address-cells": 3,
        "#size-cells": 2,
        "#interrupt-cells": 1,
        "bus-range": [0, 0],
        "linux,pci-domain": number,
        "dma-coherent": True,
        "reg": cells(segment["ecam"], at.ECAM_PER_SEGMENT),
        "ranges": ranges,
        "msi-map": [0, phandles["its"], number << 8, 0x100],  # vmm_pci_requester() of the core
        "interrupt-map": lines,
        "interrupt-map-mask": [(len(pci_gsis) - 1) << 11, 0, 0, 7],
    }
