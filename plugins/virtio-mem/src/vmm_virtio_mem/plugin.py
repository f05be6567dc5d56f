# SPDX-License-Identifier: Apache-2.0
"""The front's half of virtio-mem: what the plan says of a zone that may grow. ``--memory hotplug_method=virtio-mem``."""

from __future__ import annotations

from vmmcore.errors import UserError
from vmmcore.front.options import Option
from vmmcore.front.virtio import VirtioOptions
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.config import Memory
    from vmmcore.front.planning import PlanContext
    from vmmcore.front.zones import MemoryZone

API = (1, 0)

BLOCK = 2 << 20  # a huge page of x86-64, and of AArch64 with 4 KiB pages


class MemOptions(VirtioOptions):
    """Made by the front for each zone with ``hotplug_size=``."""

    zone = Option(str, "", "memory zone that grows (default: that of --memory)")


def plan(context: PlanContext, options: MemOptions, device: dict[str, Any]) -> None:
    """Where the region is, and how it is backed. Raises UserError for a zone without room."""
    config, zone = context.config, options.zone
    if zone not in context.layout.hotplug or config.memory.hotplug_method != "virtio-mem":
        raise UserError("--memory hotplug_size=", "no room is kept for virtio-mem",
                        "give hotplug_method=virtio-mem and hotplug_size=")
    address, size = context.layout.hotplug[zone]
    backing: Memory | MemoryZone = config.memory
    node = None
    how: dict[str, Any] = {}
    if zone:
        from vmmcore.front import zones

        [backing] = [found for found in config.memory_zones if found.id == zone]
        node = zones.nodes(config)["memory_zones"].get(zone)
        how["host_numa_node"] = backing.host_numa_node
    keys = ("shared", "hugepages", "hugepage_size", "prefault", "mergeable", "thp")
    device["options"] = {
        "zone": zone,
        "address": address,
        "region_size": size,
        "block_size": max(BLOCK, backing.hugepage_size or 0),
        "requested_size": backing.hotplugged_size or 0,
        "node": node,
        "memory": {**how, **{key: getattr(backing, key) for key in keys}},
        "packed": options.packed,
        "iommu": options.iommu,
    }


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("virtio-mem", "vmm_virtio_mem.device:Mem", options=MemOptions, plan=plan,
                       doc="memory that comes and goes (virtio-mem)")]
