# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the entropy device: a thin handle on the C data plane."""

from __future__ import annotations

from vmmcore.errors import VmmError
from vmmcore.virtio import VirtioDevice

from ._native import ffi, lib


class Rng(VirtioDevice):
    """virtio 1.2 §5.4: every request is filled with random bytes of ``files["source"]``.

    Option ``limits``: see :func:`vmmcore.front.ratelimit.rate_limit`.
    """

    virtio_id = 4
    class_code = 0x00FF00  # a device of no class (PCI Code and ID Assignment: 00h, FFh)
    queue_sizes = (256,)
    in_order = True

    def configure(self) -> None:
        limits = self.options.get("limits") or {}
        error = ffi.new("int *")
        self._rng = lib.rng_new(
            ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address),
            self.id.encode(), self.files.pop("source"), limits.get("bw", (0, 0, 0)),
            limits.get("ops", (0, 0, 0)), error)
        if not self._rng:
            import os

            raise VmmError(f"{self.id}: cannot create the entropy device: {os.strerror(-error[0])}")

    def start(self) -> None:
        queue = self.queues[0]
        if queue.active and (error := lib.rng_start(self._rng, ffi.cast("void *", queue.address))):
            import os

            raise VmmError(f"{self.id}: cannot start: {os.strerror(-error)}")

    def stop(self) -> None:
        lib.rng_stop(self._rng)

    def remove(self) -> None:
        rng, self._rng = self._rng, ffi.NULL
        lib.rng_free(rng)
