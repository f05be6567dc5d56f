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
    from vmmcore.front.planning import Layout

    bits = phys_bits(config)
    size = config.memory.size
    low = min(size, at.RAM_HOLE)
    ram = [(0, low)]
    if size > low:
        ram.append((at.RAM_ABOVE, size - low))
    platform = (1 << bits) - at.TOP_GAP - at.PLATFORM_MMIO_SIZE
    end = max(at.RAM_ABOVE, sum(ram[-1]))
    window = (end + at.GIB - 1) // at.GIB * at.GIB
    segments = getattr(config, "pci_segments", 1)
    if not 1 <= segments <= at.MAX_SEGMENTS:
        raise UserError("--platform num_pci_segments=", f"{segments} is not 1..{at.MAX_SEGMENTS}")
    granule = at.GIB if segments == 1 else 4 * at.GIB
    if platform - window < segments * granule:
        raise UserError("--memory size=", f"{size} bytes do not fit in {bits} physical address bits with "
                        f"{segments * granule // at.GIB} GiB for devices", "use less memory")

    return Layout(
        ram=ram,
        segments=_segments(segments, window, platform),
        gsis=list(at.PLATFORM_GSIS),
        pci_gsis=list(at.PCI_GSIS),
        load_min=at.HIGH_RAM,
        low_ram_end=low,
        extra={"phys_bits": bits, "platform_mmio": [platform, at.PLATFORM_MMIO_SIZE]},
    )


def _segments(count: int, window: int, end: int) -> list[dict[str, Any]]:
    share32 = at.MMIO32_SIZE // count // 4096 * 4096
    share64 = end - window if count == 1 else (end - window) // count // (4 * at.GIB) * (4 * at.GIB)
    return [
        {
            "id": n,
            "ecam": at.ECAM + n * at.ECAM_PER_SEGMENT,
            "mmio32": [at.MMIO32 + n * share32, share32],
            "mmio64": [window + n * share64, share64],
            "pio": [at.PIO_BASE, at.PIO_SIZE] if n == 0 else [0, 0],
        }
        for n in range(count)
    ]
