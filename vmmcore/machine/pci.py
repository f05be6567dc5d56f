# SPDX-License-Identifier: Apache-2.0
"""PCI segments: windows, first BAR addresses, the host bridge. Config space itself is served in C (pci.c)."""

from __future__ import annotations

from vmmcore.errors import VmmError

from .native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .native import VmHandle

BAR_IO, BAR_64, BAR_PREFETCH = 1, 4, 8


class Window:
    """A range of addresses from which BARs are given out, aligned to their size, lowest first."""

    __slots__ = ("base", "end", "taken")

    def __init__(self, base: int, size: int) -> None:
        self.base, self.end = base, base + size
        self.taken: list[tuple[int, int]] = []  # (start, end), ascending

    def take(self, size: int) -> int:
        """An address for `size` bytes (a power of two), or -1."""
        at = -(-self.base // size) * size
        for index, (start, end) in enumerate(self.taken):
            if at + size <= start:
                self.taken.insert(index, (at, at + size))
                return at
            at = max(at, -(-end // size) * size)
        if at + size > self.end:
            return -1
        self.taken.append((at, at + size))
        return at

    def give(self, start: int) -> None:
        self.taken = [t for t in self.taken if t[0] != start]


class Segment:
    """One PCI segment group with its only bus."""

    def __init__(self, vm: VmHandle, plan: dict[str, Any]) -> None:
        self.id: int = plan["id"]
        ranges = plan["mmio32"], plan["mmio64"], plan.get("pio") or [0, 0]
        check(vm, lib.vmm_pci_segment_add(vm, self.id, plan["ecam"], *ranges[0], *ranges[1], *ranges[2]))
        self.mmio32, self.mmio64, self.pio = (Window(*r) for r in ranges)

    def window(self, flags: int, size: int) -> Window:
        if flags & BAR_IO:
            return self.pio
        return self.mmio64 if flags & BAR_64 and self.mmio64.end > self.mmio64.base else self.mmio32

    def address(self, flags: int, size: int) -> tuple[Window, int]:
        """A first address for a BAR. Raises VmmError when the window is full."""
        window = self.window(flags, size)
        at = window.take(size)
        if at < 0:
            raise VmmError(f"PCI segment {self.id} has no room for a BAR of {size} bytes")
        return window, at


def add_host_bridge(vm: VmHandle) -> Any:
    """00:00.0 of segment 0: Intel's virtual host bridge, as the anchor has it."""
    bridge = lib.vmm_pci_new(vm)
    if bridge == ffi.NULL:
        raise VmmError("out of memory")
    lib.vmm_pci_set(bridge, 0x00, 4, 0x0D57_8086, 0, 0)
    lib.vmm_pci_set(bridge, 0x04, 2, 0, 0, 0)
    lib.vmm_pci_set(bridge, 0x08, 4, 0x0600_0000, 0, 0)
    check(vm, lib.vmm_pci_attach(bridge, 0, 0))
    return bridge
