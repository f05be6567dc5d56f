# SPDX-License-Identifier: Apache-2.0
"""The Python half: saved state, counters, errors; with a function table made of Python callbacks as the core."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from cffi import FFI
from uart_model import FCR, IER, IIR, LSR, RBR, SCR, THR
from vmmcore.errors import VmmError

from vmm_serial.device import Serial

ffi = FFI()
ffi.cdef("""
struct api {
  uint32_t magic, major, minor, size;
  int (*bus_add)(void *, int, uint64_t, uint64_t, void (*)(void *, uint64_t, void *, uint32_t, int), void *);
  int (*bus_del)(void *, int, uint64_t);
  void *mem, *mem_dirty;
  int (*irqfd_open)(void *, uint32_t);
  void (*irqfd_close)(void *, uint32_t, int);
  void *unused[32];
};
""")


class Core:
    """A bus with one region, and an interrupt line."""

    def __init__(self) -> None:
        self.region: Any = None
        self.refuse = 0

        def bus_add(_vm: Any, _space: int, _base: int, _length: int, handler: Any, opaque: Any) -> int:
            self.region = (handler, opaque)
            return -self.refuse

        def bus_del(_vm: Any, _space: int, _base: int) -> int:
            self.region = None
            return 0

        def irqfd_open(_vm: Any, _gsi: int) -> int:
            self.line = os.eventfd(0, os.EFD_NONBLOCK)
            return self.line

        def irqfd_close(_vm: Any, _gsi: int, fd: int) -> None:
            os.close(fd)

        self.api = ffi.new("struct api *", {"magic": 0x504D4D56, "major": 1, "size": ffi.sizeof("struct api")})
        self._keep = []
        for function in (bus_add, bus_del, irqfd_open, irqfd_close):
            kind = ffi.typeof(getattr(self.api, function.__name__))
            self._keep.append(ffi.callback(kind, function))
            setattr(self.api, function.__name__, self._keep[-1])

    def device(self) -> Serial:
        machine: Any = SimpleNamespace(api_address=int(ffi.cast("uintptr_t", self.api)), vm_address=0, devices={})
        serial = Serial(machine, "serial0", {"host": "null"}, {"port": 0x3F8, "gsi": 4}, {})
        serial.realize()
        serial.activate()
        return serial

    def write(self, register: int, value: int) -> None:
        handler, opaque = self.region
        handler(opaque, register, ffi.new("uint8_t *", value), 1, 1)

    def read(self, register: int) -> int:
        handler, opaque = self.region
        data = ffi.new("uint8_t *")
        handler(opaque, register, data, 1, 0)
        return int(data[0])


@pytest.fixture
def core() -> Iterator[Core]:
    yield Core()


def test_state_moves_to_another_device(core: Core) -> None:
    first = core.device()
    core.write(FCR, 0xC1)
    core.write(SCR, 0x77)
    core.write(4, 0x10)  # loopback: bytes for the receiver
    for byte in b"abc":
        core.write(THR, byte)
    core.write(IER, 0x01)
    state = first.save()
    assert state["rx"] == b"abc" and state["tx"] == b""
    first.remove()
    assert core.region is None

    second = core.device()
    second.restore(state)
    assert os.eventfd_read(core.line) == 1, "the pending interrupt is raised again"
    assert (core.read(SCR), core.read(IER), core.read(IIR)) == (0x77, 0x01, 0xCC)
    assert bytes(core.read(RBR) for _ in range(3)) == b"abc"
    second.remove()


@pytest.mark.parametrize("change", [{"rx": bytes(17)}, {"fcr": 0x01, "rx": 5}, {"ier": 0x40}, {"ier": 256}, {"lcr": "x"},
                                    {"fcr": 0x40}, {"tx": b"ab"}])
def test_unusable_state_is_refused_whole(core: Core, change: dict[str, Any]) -> None:
    serial = core.device()
    core.write(SCR, 0x11)
    with pytest.raises(VmmError, match="serial0: saved state is not usable"):
        serial.restore({**serial.save(), "scr": 0x22, **change})
    assert core.read(SCR) == 0x11
    with pytest.raises(VmmError, match="serial0"):
        serial.restore({})
    serial.remove()


def test_reset_and_counters(core: Core) -> None:
    serial = core.device()
    for byte in b"hello":
        core.write(THR, byte)
    core.write(IER, 0x02)
    serial.reset()
    assert core.read(IER) == 0 and core.read(LSR) == 0x60
    counters = serial.counters()
    assert counters["tx_bytes"] == 5 and counters["interrupts"] == 1 and counters["rx_bytes"] == 0
    serial.remove()


def test_a_taken_port_is_an_error_that_says_so(core: Core) -> None:
    core.refuse = errno.EEXIST
    with pytest.raises(VmmError, match="serial0: .*exists"):
        core.device()
