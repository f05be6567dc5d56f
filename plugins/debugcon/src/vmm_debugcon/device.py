# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the debug console: a thin handle on the C device."""

from __future__ import annotations

from vmmcore.device import Device
from vmmcore.errors import VmmError

from ._native import ffi, lib


class Debugcon(Device):
    """``resources``: I/O ports ``console``, ``stamp``, ``exit`` (0: not there). ``files``: ``out``.

    Option ``drop``: whether output that nobody reads is dropped (a pty).
    """

    def realize(self) -> None:
        ports = ffi.new("struct debugcon_ports *", {name: self.resources[name]
                                                    for name in ("console", "stamp", "exit")})
        flags = lib.VMM_CHARDEV_DROP if self.options.get("drop") else 0
        error = ffi.new("int *")
        self._debugcon = lib.debugcon_new(
            ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address), ports,
            self.files.get("out", -1), flags, error)
        if not self._debugcon:
            import os

            raise VmmError(f"{self.id}: cannot create the debug console: {os.strerror(-error[0])}")

    def reset(self) -> None:
        lib.debugcon_reset(self._debugcon)

    def remove(self) -> None:
        debugcon, self._debugcon = self._debugcon, ffi.NULL
        lib.debugcon_free(debugcon)

    def stamps(self) -> list[tuple[int, int]]:
        """(byte, CLOCK_MONOTONIC in ns) of the first write of each value since the last reset, in order."""
        stamps = ffi.new("struct debugcon_stamp[]", lib.DEBUGCON_STAMPS)
        count = lib.debugcon_stamps(self._debugcon, stamps)
        return [(stamps[i].value, stamps[i].time_ns) for i in range(count)]

    def counters(self) -> dict[str, int]:
        counters = ffi.new("struct debugcon_counters *")
        lib.debugcon_read_counters(self._debugcon, counters)
        return {name: getattr(counters, name) for name in ("tx_bytes", "tx_dropped", "stamps")}
