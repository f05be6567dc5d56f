# SPDX-License-Identifier: Apache-2.0
"""The front's half: one option."""

from __future__ import annotations

from vmmcore.front.options import Option, Options
from vmmcore.hooks import DeviceType, hookimpl

API = (1, 0)


class EduOptions(Options):
    """``--plugin pci-edu,dma_mask=0xffffffff``."""

    dma_mask = Option(int, 0x0FFF_FFFF, "address bits that its DMA engine can reach", min=0xFFF, max=(1 << 64) - 1)


@hookimpl
def vmm_device_types() -> list[DeviceType]:
    return [DeviceType("edu", "vmm_pci_edu.device:Edu", options=EduOptions, doc="the educational PCI device of QEMU")]
