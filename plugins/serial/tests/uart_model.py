# SPDX-License-Identifier: Apache-2.0
"""The UART's state machine as the tests drive it: a guest's reads and writes, a host with little room."""

from __future__ import annotations

from typing import Any

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7


class Uart:
    """The state machine with a host that takes `room` bytes and counts interrupts."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self.ffi, self.lib = ffi, lib
        self.sent = bytearray()
        self.room = 1 << 30
        self.interrupts = 0

        def transmit(_opaque: Any, data: Any, length: int) -> int:
            taken = min(length, self.room)
            self.sent += bytes(ffi.buffer(data, taken))
            self.room -= taken
            return taken

        def interrupt(_opaque: Any) -> None:
            self.interrupts += 1

        self._keep = (ffi.callback("size_t(void *, const uint8_t *, size_t)", transmit),
                      ffi.callback("void(void *)", interrupt))
        self._ops = ffi.new("struct uart16550_ops *", {"transmit": self._keep[0], "interrupt": self._keep[1]})
        self.uart = ffi.new("struct uart16550 *")
        lib.uart16550_init(self.uart, self._ops, ffi.NULL)

    def read(self, register: int) -> int:
        return int(self.lib.uart16550_read(self.uart, register))

    def write(self, register: int, value: int) -> None:
        self.lib.uart16550_write(self.uart, register, value)

    def receive(self, data: bytes) -> int:
        return int(self.lib.uart16550_receive(self.uart, data, len(data)))

    def drain(self) -> bool:
        return bool(self.lib.uart16550_drain(self.uart))

    def wants_input(self) -> bool:
        return bool(self.lib.uart16550_wants_input(self.uart))

    def edges(self) -> int:
        """Interrupts since the last call."""
        count, self.interrupts = self.interrupts, 0
        return count
