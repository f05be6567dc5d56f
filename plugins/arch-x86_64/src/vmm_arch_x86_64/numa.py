# SPDX-License-Identifier: Apache-2.0
"""NUMA nodes in the description of the ACPI tables: who is in which, and how far they are from one another."""

from __future__ import annotations

from vmmcore.front import zones

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def add(spec: dict[str, Any], config: Any, planned: list[dict[str, Any]],
        hotplug: dict[str, tuple[int, int]]) -> None:
    """SRAT and SLIT, and the nodes of CPUs and PCI segments. `planned`: ``plan["memory"]["zones"]``."""
    nodes = zones.nodes(config)
    for index, cpu in enumerate(spec["cpus"]):
        cpu["node"] = nodes["cpus"][index]
    for segment in spec["segments"]:
        if segment["id"] in nodes["pci_segments"]:
            segment["node"] = nodes["pci_segments"][segment["id"]]
    spec["memory"] = [
        {"base": base, "size": size, "node": nodes["memory_zones"][zone["id"]]}
        for zone in planned for base, size in zone["regions"]
    ]
    spec["memory"] += [
        {"base": base, "size": size, "node": nodes["memory_zones"][zone], "hotplug": True}
        for zone, (base, size) in hotplug.items()
    ]
    spec["distances"] = zones.distances(config)
