# SPDX-License-Identifier: Apache-2.0
"""Where RAM, PCI windows and interrupts are in the guest-physical address space."""

from __future__ import annotations

import os

from vmmcore.errors import UserError

from . import addresses as at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.front.planning import Layout

DEFAULT_PHYS_BITS = 46
MIN_PHYS_BITS = 36  # what every CPU with long mode and PAE has


def host_phys_bits(path: str = "/proc/cpuinfo") -> int:
    """Physical address bits of this host's CPUs; 36, which all have, when the kernel does not tell."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 8192)  # the first processor; the whole file may be megabytes
        finally:
            os.close(fd)
        return int(text.split(b"\naddress sizes\t: ", 1)[1].split(b" ", 1)[0])
    except (OSError, ValueError, IndexError):
        return MIN_PHYS_BITS


def phys_bits(config: Any) -> int:
    """Physical address bits that the guest sees. Raises UserError for fewer than 36."""
    wanted = config.cpus.max_phys_bits or DEFAULT_PHYS_BITS
    if wanted < MIN_PHYS_BITS:
        raise UserError("--cpus max_phys_bits=", f"{wanted} leaves no room for 64-bit devices",
                        f"use at least {MIN_PHYS_BITS}")
    return int(min(host_phys_bits(), wanted))


def layout(config: Any) -> Layout:
    """The :class:`Layout` for a configuration. Raises UserError for RAM or segments that do not fit."""
    from vmmcore.front.context import Layout, place_hotplug

    bits = phys_bits(config)
    size = config.memory.size
    low = min(size, at.RAM_HOLE)
    ram = [(0, low)]
    if size > low:
        ram.append((at.RAM_ABOVE, size - low))
    platform = (1 << bits) - at.TOP_GAP - at.PLATFORM_MMIO_SIZE
    hotplug, end = place_hotplug(max(at.RAM_ABOVE, sum(ram[-1])), config.hotplug_room)
    window = (end + at.GIB - 1) // at.GIB * at.GIB
    shares = sum(config.segment_weights("mmio64"))
    granule = at.GIB if shares == 1 else 4 * at.GIB
    if platform - window < shares * granule:
        raise UserError("--memory size=", f"{end - at.RAM_ABOVE + low} bytes do not fit in {bits} physical address "
                        f"bits with {shares * granule // at.GIB} GiB for devices", "use less memory")

    return Layout(
        ram=ram,
        segments=_segments(config, window, platform),
        gsis=list(at.PLATFORM_GSIS),
        pci_gsis=list(at.PCI_GSIS),
        load_min=at.HIGH_RAM,
        low_ram_end=low,
        hotplug=hotplug,
        extra={"phys_bits": bits, "platform_mmio": [platform, at.PLATFORM_MMIO_SIZE]},
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
            "pio": [at.PIO_BASE, at.PIO_SIZE] if n == 0 else [0, 0],
        }
        for n, (mmio32, mmio64) in enumerate(zip(low, high, strict=True))
    ]
