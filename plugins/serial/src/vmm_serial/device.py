# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the serial port: a thin handle on the C device."""

from __future__ import annotations

from vmmcore.device import Device
from vmmcore.errors import VmmError

from ._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_REGISTERS = ("ier", "fcr", "lcr", "mcr", "scr", "dll", "dlm", "lsr_errors", "msr_deltas", "thre_pending")
_COUNTERS = ("rx_bytes", "tx_bytes", "rx_overruns", "tx_overruns", "interrupts")


class Serial(Device):
    """A 16550A at ``resources["port"]`` with interrupt ``resources["gsi"]``.

    ``files``: ``in`` and ``out``, each may be missing, or ``listen``. Option ``sockets``: see
    :mod:`vmmcore.sockets`. Option ``host``: ``tty`` gets raw mode and an
    escape key if it is a terminal; ``pty`` drops what nobody reads.
    """

    def realize(self) -> None:
        flags = {"tty": lib.VMM_CHARDEV_RAW | lib.VMM_CHARDEV_ESCAPE,
                 "pty": lib.VMM_CHARDEV_DROP}.get(self.options.get("host", ""), 0)
        error = ffi.new("int *")
        self._serial = lib.serial_new(
            ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address),
            self.resources["port"], self.resources["gsi"],
            self.files.get("in", self.files.get("listen", -1)), self.files.get("out", -1), flags, error)
        if not self._serial:
            import os

            raise VmmError(f"{self.id}: cannot create the serial port: {os.strerror(-error[0])}")
        if self.options.get("sockets"):
            from vmmcore.sockets import remove_at_end

            remove_at_end(self.options["sockets"])

    def activate(self) -> None:
        lib.serial_resume(self._serial)

    def pause(self) -> None:
        lib.serial_pause(self._serial)

    def resume(self) -> None:
        lib.serial_resume(self._serial)

    def reset(self) -> None:
        lib.serial_reset(self._serial)

    def remove(self) -> None:
        serial, self._serial = self._serial, ffi.NULL
        lib.serial_free(serial)
        if self.options.get("sockets") and self.id not in self.machine.devices:  # not for a reboot, which goes on with it
            from vmmcore.sockets import remove

            remove(self.options["sockets"])

    def save(self) -> dict[str, Any]:
        """Registers and the bytes in both FIFOs. Pause first: input that comes later is not in it."""
        state = ffi.new("struct uart16550_state *")
        lib.serial_save(self._serial, state)
        saved: dict[str, Any] = {name: getattr(state, name) for name in _REGISTERS}
        for fifo in ("rx", "tx"):
            saved[fifo] = bytes(ffi.buffer(getattr(state, fifo)))[: getattr(state, fifo + "_len")]
        return saved

    def restore(self, state: dict[str, Any]) -> None:
        """Raises VmmError for a state that no serial port can be in."""
        registers = ffi.new("struct uart16550_state *")
        try:
            for name in _REGISTERS:
                setattr(registers, name, state[name])
            for fifo in ("rx", "tx"):
                data = bytes(memoryview(state[fifo]))
                if len(data) > len(getattr(registers, fifo)):
                    raise ValueError(f"{len(data)} bytes in a FIFO")
                setattr(registers, fifo, data + bytes(len(getattr(registers, fifo)) - len(data)))
                setattr(registers, fifo + "_len", len(data))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise VmmError(f"{self.id}: saved state is not usable: {error}") from None
        if lib.serial_restore(self._serial, registers):
            raise VmmError(f"{self.id}: saved state is not usable: impossible register values")

    def counters(self) -> dict[str, int]:
        counters = ffi.new("struct serial_counters *")
        lib.serial_read_counters(self._serial, counters)
        return {name: getattr(counters, name) for name in _COUNTERS}
