# SPDX-License-Identifier: Apache-2.0
"""Options that every virtio device takes."""

from __future__ import annotations

from .options import Option, Options


class VirtioOptions(Options):
    """Inherit a virtio device's options from this. :class:`vmmcore.virtio.VirtioDevice` reads them."""

    packed = Option(bool, False, "offer packed virtqueues (VIRTIO_F_RING_PACKED)")
    iommu = Option(bool, False, "addresses are those of the guest's IOMMU, if it has one (VIRTIO_F_ACCESS_PLATFORM)")
