# SPDX-License-Identifier: Apache-2.0
"""What every serial port's Python half does, whatever chip its C half is (:class:`SerialPort`; ``vmmuart.h``)."""

from __future__ import annotations

from .device import Device
from .errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class SerialPort(Device):
    """A thin handle on a port in C, planned by :func:`vmmcore.front.chardev.plan_serial_port`.

    ``resources``: ``port`` or ``address``, and ``gsi``. ``files``: ``in`` and ``out``, each may be missing, or
    ``listen``. Option ``sockets``: see :mod:`vmmcore.sockets`. Option ``host``: ``tty`` gets raw mode and an
    escape key if it is a terminal; ``pty`` drops what nobody reads.

    native     the plugin's cffi module, with the functions ``PREFIX_new``, ``_free``, ``_reset``, ``_pause``, ``_save``,
               ``_restore`` and ``_read_counters``, and ``struct vmm_uart_counters``
    prefix     of these functions
    state      what ``_save`` fills in: a struct with `registers` and the arrays ``rx`` and ``tx``, which hold ``rx_len``
               and ``tx_len`` elements
    """

    native: Any
    prefix = ""
    state_type = ""
    registers: tuple[str, ...] = ()

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self.native.lib, f"{self.prefix}_{name}")(*arguments)

    def realize(self) -> None:
        lib, ffi = self.native.lib, self.native.ffi
        flags = {"tty": lib.VMM_CHARDEV_RAW | lib.VMM_CHARDEV_ESCAPE,
                 "pty": lib.VMM_CHARDEV_DROP}.get(self.options.get("host", ""), 0)
        error = ffi.new("int *")
        place = self.resources["port" if "port" in self.resources else "address"]
        self._c = self._call(
            "new", ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address), place,
            self.resources["gsi"], self.files.get("in", self.files.get("listen", -1)), self.files.get("out", -1),
            flags, error)
        if not self._c:
            import os

            raise VmmError(f"{self.id}: cannot create the serial port: {os.strerror(-error[0])}")
        if self.options.get("sockets"):
            from .sockets import remove_at_end

            remove_at_end(self.options["sockets"])

    def activate(self) -> None:
        self._call("pause", self._c, False)

    def pause(self) -> None:
        self._call("pause", self._c, True)

    def resume(self) -> None:
        self._call("pause", self._c, False)

    def reset(self) -> None:
        self._call("reset", self._c)

    def remove(self) -> None:
        port, self._c = self._c, self.native.ffi.NULL
        self._call("free", port)
        if self.options.get("sockets") and self.id not in self.machine.devices:  # not for a reboot, which goes on with it
            from .sockets import remove

            remove(self.options["sockets"])

    def save(self) -> dict[str, Any]:
        """Registers and the bytes in both FIFOs. Pause first: input that comes later is not in it."""
        ffi = self.native.ffi
        state = ffi.new(f"{self.state_type} *")
        self._call("save", self._c, state)
        saved: dict[str, Any] = {name: getattr(state, name) for name in self.registers}
        for fifo in ("rx", "tx"):
            array = getattr(state, fifo)
            used = getattr(state, fifo + "_len") * ffi.sizeof(array) // len(array)
            saved[fifo] = bytes(ffi.buffer(array))[:used]
        return saved

    def restore(self, state: dict[str, Any]) -> None:
        """Raises VmmError for a state that no serial port can be in."""
        ffi = self.native.ffi
        made = ffi.new(f"{self.state_type} *")
        try:
            for name in self.registers:
                setattr(made, name, state[name])
            for fifo in ("rx", "tx"):
                data, array = bytes(memoryview(state[fifo])), getattr(made, fifo)
                if len(data) > ffi.sizeof(array):
                    raise ValueError(f"{len(data)} bytes in a FIFO")
                ffi.buffer(array)[0:len(data)] = data
                setattr(made, fifo + "_len", len(data) * len(array) // ffi.sizeof(array))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise VmmError(f"{self.id}: saved state is not usable: {error}") from None
        if self._call("restore", self._c, made):
            raise VmmError(f"{self.id}: saved state is not usable: impossible register values")

    def counters(self) -> dict[str, int]:
        counters = self.native.ffi.new("struct vmm_uart_counters *")
        self._call("read_counters", self._c, counters)
        return {name: getattr(counters, name)
                for name in ("rx_bytes", "tx_bytes", "rx_overruns", "tx_overruns", "interrupts")}
