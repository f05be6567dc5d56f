# SPDX-License-Identifier: Apache-2.0
"""The Python half of a device whose registers are a plugin's C code: a thin handle, and what serial ports add to it."""

from __future__ import annotations

from .device import Device
from .errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class CDevice(Device):
    """A platform device in C. ``resources``: ``port`` or ``address``, and ``gsi``.

    native      the plugin's cffi module, with the functions ``PREFIX_new`` (of API, VM, place, GSI, :meth:`arguments`
                and the ``int *`` for an error), ``_free``, ``_reset``, ``_pause`` (1: pause, 0: go on), ``_save`` and
                ``_restore``
    prefix      of these functions
    state_type  what ``_save`` fills in: a struct with `registers`, which are numbers, and for each of `fifos` an array
                and how many of its elements are used (``NAME_len``)
    """

    native: Any
    prefix = ""
    state_type = ""
    registers: tuple[str, ...] = ()
    fifos: tuple[str, ...] = ()

    def arguments(self) -> tuple[Any, ...]:
        """What ``_new`` needs besides the device's place."""
        return ()

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self.native.lib, f"{self.prefix}_{name}")(*arguments)

    def realize(self) -> None:
        ffi = self.native.ffi
        error = ffi.new("int *")
        place = self.resources["port" if "port" in self.resources else "address"]
        self._c = self._call("new", ffi.cast("void *", self.machine.api_address),
                             ffi.cast("void *", self.machine.vm_address), place, self.resources["gsi"],
                             *self.arguments(), error)
        if not self._c:
            import os

            raise VmmError(f"{self.id}: cannot create the device: {os.strerror(-error[0])}")

    def activate(self) -> None:
        self._call("pause", self._c, 0)

    def pause(self) -> None:
        self._call("pause", self._c, 1)

    def resume(self) -> None:
        self._call("pause", self._c, 0)

    def reset(self) -> None:
        self._call("reset", self._c)

    def remove(self) -> None:
        device, self._c = self._c, self.native.ffi.NULL
        self._call("free", device)

    def save(self) -> dict[str, Any]:
        """Registers, and what is in FIFOs. Pause first: input that comes later is not in it."""
        ffi = self.native.ffi
        state = ffi.new(f"{self.state_type} *")
        self._call("save", self._c, state)
        saved: dict[str, Any] = {name: getattr(state, name) for name in self.registers}
        for name in self.fifos:
            array = getattr(state, name)
            used = getattr(state, name + "_len") * ffi.sizeof(array) // len(array)
            saved[name] = bytes(ffi.buffer(array))[:used]
        return saved

    def restore(self, state: dict[str, Any]) -> None:
        """Raises VmmError for a state that no such device can be in."""
        ffi = self.native.ffi
        made = ffi.new(f"{self.state_type} *")
        try:
            for name in self.registers:
                setattr(made, name, state[name])
            for name in self.fifos:
                data, array = bytes(memoryview(state[name])), getattr(made, name)
                if len(data) > ffi.sizeof(array):
                    raise ValueError(f"{len(data)} bytes in a FIFO")
                ffi.buffer(array)[0:len(data)] = data
                setattr(made, name + "_len", len(data) * len(array) // ffi.sizeof(array))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise VmmError(f"{self.id}: saved state is not usable: {error}") from None
        if self._call("restore", self._c, made):
            raise VmmError(f"{self.id}: saved state is not usable: impossible register values")


class SerialPort(CDevice):
    """A serial port (``vmmuart.h``), planned by :func:`vmmcore.front.chardev.plan_serial_port`.

    ``files``: ``in`` and ``out``, each may be missing, or ``listen``. Option ``sockets``: see
    :mod:`vmmcore.sockets`. Option ``host``: ``tty`` gets raw mode and an escape key if it is a terminal; ``pty`` drops
    what nobody reads. ``PREFIX_read_counters`` fills in ``struct vmm_uart_counters``.
    """

    fifos = ("rx", "tx")

    def arguments(self) -> tuple[Any, ...]:
        lib = self.native.lib
        flags = {"tty": lib.VMM_CHARDEV_RAW | lib.VMM_CHARDEV_ESCAPE,
                 "pty": lib.VMM_CHARDEV_DROP}.get(self.options.get("host", ""), 0)
        return self.files.get("in", self.files.get("listen", -1)), self.files.get("out", -1), flags

    def realize(self) -> None:
        super().realize()
        if self.options.get("sockets"):
            from .sockets import remove_at_end

            remove_at_end(self.options["sockets"])

    def remove(self) -> None:
        super().remove()
        if self.options.get("sockets") and self.id not in self.machine.devices:  # else a reboot goes on with them
            from .sockets import remove

            remove(self.options["sockets"])

    def counters(self) -> dict[str, int]:
        counters = self.native.ffi.new("struct vmm_uart_counters *")
        self._call("read_counters", self._c, counters)
        return {name: getattr(counters, name)
                for name in ("rx_bytes", "tx_bytes", "rx_overruns", "tx_overruns", "interrupts")}
