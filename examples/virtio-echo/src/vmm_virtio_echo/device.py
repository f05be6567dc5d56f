# SPDX-License-Identifier: Apache-2.0
"""The half beside the guest: in Python, or a handle on the C in native/echo.c."""

from __future__ import annotations

from typing import Any

from vmmcore.errors import VmmError
from vmmcore.virtio import Queue, VirtioDevice


class Echo(VirtioDevice):
    """Each request is answered with its own bytes, as many as there is room for."""

    virtio_id = 63  # choose one that no driver takes for its own
    queue_sizes = (64,)

    # --- in Python ---

    echoed = 0

    def handle(self, queue: Queue) -> None:
        for chain in queue:
            self.echoed += chain.write(chain.read())

    def counters(self) -> dict[str, int]:
        return {} if self.options.get("native") else {"bytes": self.echoed}

    # --- in C ---

    echo: Any = None

    def configure(self) -> None:
        if self.options.get("native"):
            from ._native import ffi, lib

            vm, api = (ffi.cast("void *", n) for n in (self.machine.vm_address, self.machine.api_address))
            self.echo = lib.echo_new(api, vm, self.id.encode())
            if self.echo == ffi.NULL:
                raise VmmError(f"{self.id}: out of memory, or built for another version of the core")

    def start(self) -> None:
        if self.echo:
            from ._native import ffi, lib

            if self.queues[0].active and lib.echo_start(self.echo, ffi.cast("void *", self.queues[0].address)):
                raise VmmError(f"{self.id}: cannot serve its queue")

    def remove(self) -> None:
        if self.echo:
            from ._native import lib

            lib.echo_free(self.echo)
