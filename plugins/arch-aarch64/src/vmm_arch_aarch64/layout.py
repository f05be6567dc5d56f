# SPDX-License-Identifier: Apache-2.0
"""Where RAM, PCI windows and interrupts are in the guest-physical address space."""

from __future__ import annotations

from vmmcore.errors import UserError

from . import addresses as at
from . import host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.front.context import Layout

MIN_BITS = 32  # the least that KVM makes (KVM API §4.2)
USUAL_BITS = 40  # enough for 64-bit devices, and three levels of translation; more only where RAM needs it
#: vCPUs that have room for their redistributors between flash and the distributor
MAX_CPUS = (at.GIC_DIST - at.GIC_ITS_SIZE - at.FLASH_END) // at.GIC_REDIST_SIZE


def layout(config: Any) -> Layout:
    """The :class:`Layout` for a configuration. Raises UserError for RAM, CPUs or segments that do not fit."""
    from vmmcore.front.context import Layout, place_hotplug

    if config.cpus.max > MAX_CPUS:
        raise UserError("--cpus max=", f"{config.cpus.max} vCPUs", f"this machine has room for {MAX_CPUS}")
    size = config.memory.size
    if size < at.KERNEL - at.RAM + 4 * at.MIB:
        raise UserError("--memory size=", f"{size} bytes have no room for a kernel", "the least is 8M; try 512M")
    low = min(size, at.RAM_HOLE - at.RAM)
    ram = [(at.RAM, low)]
    if size > low:
        ram.append((at.RAM_ABOVE, size - low))
    segments = sum(config.segment_weights("mmio64"))
    most, pmu = host.capabilities()
    hotplug, end = place_hotplug(max(sum(ram[-1]), at.RAM_ABOVE), config.hotplug_room)
    window = max(end, at.MMIO64_MIN)
    window = (window + at.GIB - 1) // at.GIB * at.GIB
    granule = at.GIB if segments == 1 else 4 * at.GIB
    bits = max((window + segments * granule - 1).bit_length(), USUAL_BITS)
    bits = max(min(bits, most, config.cpus.max_phys_bits or most), MIN_BITS)
    if (1 << bits) < window + segments * granule:
        if (end if hotplug else sum(ram[-1])) > 1 << bits:
            raise UserError("--memory size=", f"{size} bytes do not fit in {bits} physical address bits", "use less")
        window = 1 << bits  # a small address space: devices are in the 32-bit window
    return Layout(
        ram=ram,
        segments=_segments(config, window, 1 << bits),
        gsis=list(at.PLATFORM_GSIS),
        pci_gsis=list(at.PCI_GSIS),
        load_min=at.KERNEL,
        low_ram_end=at.RAM + low,
        hotplug=hotplug,
        extra={"phys_bits": bits, "pmu": pmu, "phandles": {"gic": 1, "its": 2, "clock": 3}},
    )


def _segments(config: Any, window: int, end: int) -> list[dict[str, Any]]:
    from vmmcore.front.context import share

    low = share(at.MMIO32, at.MMIO32_SIZE, config.segment_weights("mmio32"), 4096)
    high = share(window, end - window, config.segment_weights("mmio64"), 4 * at.GIB)
    if len(high) == 1:
        high = [[window, end - window]]
    return [
        {
            "id": n,
            "ecam": at.ECAM + n * at.ECAM_PER_SEGMENT,
            "mmio32": mmio32,
            "mmio64": mmio64,
            "pio": [at.PORT_MIN, at.PORTS_SIZE - at.PORT_MIN] if n == 0 else [0, 0],
        }
        for n, (mmio32, mmio64) in enumerate(zip(low, high, strict=True))
    ]
