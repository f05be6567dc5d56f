# SPDX-License-Identifier: Apache-2.0
"""A virtio device in Python for guests/virtio_hostile.c: ``vmm run --plugin tests/baremetal/virtio_echo.py``."""

from __future__ import annotations

from vmmcore.virtio import Queue, VirtioDevice


class VirtioEcho(VirtioDevice):
    """Writes back what it reads, as far as there is room."""

    virtio_id = 63
    queue_sizes = (64, 64)
    config_space = bytes(range(16))
    config_writable = bytes(8) + b"\xff" * 8

    def handle(self, queue: Queue) -> None:
        for chain in queue:
            chain.write(chain.read()[: 1 << 20])
