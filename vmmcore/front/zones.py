# SPDX-License-Identifier: Apache-2.0
"""``--memory-zone``, ``--numa``, ``--platform`` and ``--pci-segment``. Imported when one of them is given."""

from __future__ import annotations

import os

from ..errors import UserError
from .config import check_backing, check_hotplug, check_id
from .options import Affinity, IntList, Kind, Option, Options, Path, Size, StrList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .config import VmConfig

#: what the SLIT says of a node and itself, and of two nodes that nothing is said about (ACPI 6.5 §5.2.17)
LOCAL, REMOTE = 10, 20


class MemoryZone(Options):
    """``--memory-zone``: a piece of the guest's RAM with a backing of its own. Sizes in bytes."""

    id = Option(str, doc="name of the zone")
    size = Option(Size, doc="bytes of RAM")
    file: Option[str | None] = Option(Path, None, "file, or folder of a file system, that backs it")
    shared = Option(bool, False, "share the memory file, as vhost-user needs")
    hugepages = Option(bool, False, "back it with hugetlbfs pages")
    hugepage_size: Option[int | None] = Option(Size, None, "which huge page size (default: the host's)")
    host_numa_node: Option[int | None] = Option(int, None, "NUMA node of the host to take it from", min=0, max=1023)
    hotplug_size: Option[int | None] = Option(Size, None, "bytes that virtio-mem may add")
    hotplugged_size: Option[int | None] = Option(Size, None, "bytes of these that are there at the start")
    prefault = Option(bool, False, "populate all pages before the guest starts")
    mergeable = Option(bool, False, "let the host's KSM merge equal pages")
    thp = Option(bool, True, "transparent huge pages")

    def validate(self, option: str) -> None:
        check_id(self.id, f"{option} id=")
        if not self.size:
            raise UserError(f"{option} size=", "a zone of 0 bytes", "give it some, or leave it out")
        check_backing(self, option)
        check_hotplug(self, option)
        node = self.host_numa_node
        if node is not None and not os.path.isdir(f"/sys/devices/system/node/node{node}"):
            raise UserError(f"{option} host_numa_node=", f"this host has no NUMA node {node}", "see `numactl -H`")
        if self.file is not None and self.hugepages:
            raise UserError(f"{option} file=", "does not go with hugepages=on", "name a file in a hugetlbfs instead")


class _Distances(Kind["dict[int, int]"]):
    name = "[NODE@DISTANCE,…]"
    json = {
        "anyOf": [
            {"type": "array", "items": {"type": "object", "properties": {"destination": {"type": "integer"},
                                                                         "distance": {"type": "integer"}}}},
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"type": "string"},
        ]
    }

    def parse(self, text: str) -> dict[int, int]:
        found = Affinity.parse(text)
        if any(len(values) != 1 for values in found.values()):
            raise ValueError(f"'{text}' is not like [1@20,2@30]")
        return {node: values[0] for node, values in found.items()}

    def accept(self, value: Any) -> dict[int, int]:
        if isinstance(value, list | tuple):
            if not all(isinstance(one, dict) and one.keys() == {"destination", "distance"} for one in value):
                raise ValueError(f"expected a list of destination and distance, not {value!r}")
            value = {one["destination"]: one["distance"] for one in value}
        if isinstance(value, dict):
            return self.parse(",".join(f"{node}@{distance}" for node, distance in value.items()))
        return super().accept(value)


class Numa(Options):
    """``--numa``: a NUMA node of the guest."""

    guest_numa_id = Option(int, doc="its number", min=0, max=254)
    cpus = Option(IntList, [], "its vCPUs")
    distances = Option(_Distances(), {}, "how far other nodes are: 10 is next door, 255 out of reach")
    memory_zones = Option(StrList, [], "its memory zones")
    pci_segments = Option(IntList, [], "its PCI segments")

    def validate(self, option: str) -> None:
        for node, distance in self.distances.items():
            if not LOCAL <= distance <= 255 or (node == self.guest_numa_id and distance != LOCAL):
                raise UserError(f"{option} distances=", f"{node}@{distance}", "10 is the node itself, 255 the most")


class Platform(Options):
    """``--platform``: the machine as a whole."""

    num_pci_segments = Option(int, 1, "PCI segments", min=1, max=96)
    serial_number: Option[str | None] = Option(str, None, "the system's serial number (SMBIOS)")
    uuid: Option[str | None] = Option(str, None, "the system's UUID (SMBIOS)")
    oem_strings = Option(StrList, [], "strings of the maker (SMBIOS)")

    def validate(self, option: str) -> None:
        if self.uuid is not None:
            try:
                uuid_bytes(self.uuid)
            except ValueError:
                raise UserError(f"{option} uuid=", f"'{self.uuid}' is no UUID", "32 hexadecimal digits") from None


def uuid_bytes(text: str) -> bytes:
    """The 16 bytes of a UUID, in the order in which they are written. Raises ValueError."""
    data = bytes.fromhex(text.replace("-", ""))
    if len(data) != 16:
        raise ValueError(text)
    return data


class PciSegment(Options):
    """``--pci-segment``: how much of the address space a PCI segment gets, compared with the others."""

    pci_segment = Option(int, doc="its number", min=0, max=95)
    mmio32_aperture_weight = Option(int, 1, "its share of the addresses below 4 GiB", min=1, max=1 << 20)
    mmio64_aperture_weight = Option(int, 1, "its share of the addresses above", min=1, max=1 << 20)


def check_together(config: VmConfig) -> None:
    """What the options say about each other. Raises UserError."""
    _distinct("--memory-zone id=", [zone.id for zone in config.memory_zones])
    _distinct("--numa guest_numa_id=", [node.guest_numa_id for node in config.numa])
    _distinct("--pci-segment pci_segment=", [segment.pci_segment for segment in config.pci_segments])
    for segment in config.pci_segments:
        if segment.pci_segment >= config.num_pci_segments:
            raise UserError("--pci-segment pci_segment=", f"there is no PCI segment {segment.pci_segment}",
                            "raise --platform num_pci_segments=")
    if any(zone.hotplug_size for zone in config.memory_zones) and config.memory.hotplug_method != "virtio-mem":
        raise UserError("--memory-zone hotplug_size=", "zones grow by virtio-mem only",
                        "add --memory size=0,hotplug_method=virtio-mem")
    if config.numa:
        _check_numa(config)


def _check_numa(config: VmConfig) -> None:
    zones = {zone.id for zone in config.memory_zones}
    for what, key, known in (
        ("vCPU", "cpus", range(config.cpus.max)),
        ("memory zone", "memory_zones", zones),
        ("PCI segment", "pci_segments", range(config.num_pci_segments)),
    ):
        named = [item for node in config.numa for item in getattr(node, key)]
        _distinct(f"--numa {key}=", named)
        for item in named:
            if item not in known:
                raise UserError(f"--numa {key}=", f"there is no {what} {item}", "name those that the VM has")
        if key == "memory_zones":
            continue
        left = [item for item in known if item not in named]
        if key == "cpus" and left:
            raise UserError("--numa cpus=", f"vCPU {left[0]} is in no node", "give each vCPU up to max= a node")
    for zone in sorted(zones - {name for node in config.numa for name in node.memory_zones}):
        raise UserError("--numa memory_zones=", f"memory zone {zone} is in no node", "give each zone a node")
    if not zones:
        raise UserError("--numa", "there are no memory zones", "add --memory size=0 and a --memory-zone for each node")
    ids = {node.guest_numa_id for node in config.numa}
    for node in config.numa:
        for other in node.distances:
            if other not in ids:
                raise UserError("--numa distances=", f"there is no node {other}", "name nodes that --numa has")


def _distinct(option: str, values: Sequence[int | str]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise UserError(option, f"'{value}' is given twice", "keep one of them")


def cut(ram: Sequence[tuple[int, int]], zones: Sequence[MemoryZone]) -> dict[str, list[list[int]]]:
    """The pieces of `ram`, (address, bytes), that each zone has: in the order of zones and addresses."""
    pieces = [list(piece) for piece in ram]
    result: dict[str, list[list[int]]] = {}
    for zone in zones:
        left, found = zone.size, result.setdefault(zone.id, [])
        while left:
            piece = pieces[0]
            size = min(left, piece[1])
            found.append([piece[0], size])
            piece[0], piece[1], left = piece[0] + size, piece[1] - size, left - size
            if not piece[1]:
                pieces.pop(0)
    return result


def nodes(config: VmConfig) -> dict[str, dict[int | str, int]]:
    """Which node everything is in: {"cpus": {vCPU: node}, "memory_zones": {zone: node}, "pci_segments": …}."""
    return {
        key: {item: node.guest_numa_id for node in config.numa for item in getattr(node, key)}
        for key in ("cpus", "memory_zones", "pci_segments")
    }


def distances(config: VmConfig) -> list[list[int]]:
    """The SLIT's matrix: row and column n are those of node n; a distance that is said once holds both ways."""
    said = {(node.guest_numa_id, other): far for node in config.numa for other, far in node.distances.items()}
    count = max(node.guest_numa_id for node in config.numa) + 1
    return [
        [LOCAL if a == b else said.get((a, b), said.get((b, a), REMOTE)) for b in range(count)] for a in range(count)
    ]


def plan_zones(config: VmConfig, ram: Sequence[tuple[int, int]], files: dict[str, int]) -> list[dict[str, Any]]:
    """``plan["memory"]["zones"]``. `files`: the index in ``plan["files"]`` of a zone's file."""
    places = cut(ram, config.memory_zones)
    result = []
    for zone in config.memory_zones:
        keys = ("shared", "hugepages", "prefault", "mergeable", "thp", "host_numa_node")
        result.append({
            "id": zone.id,
            "regions": places[zone.id],
            **{key: getattr(zone, key) for key in keys},
            "hugepage_size": zone.hugepage_size or 0,
            "file": files.get(zone.id),
        })
    return result

