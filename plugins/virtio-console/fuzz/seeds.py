# SPDX-License-Identifier: Apache-2.0
"""Writes first inputs for native/fuzz_console.c into a folder: a driver that behaves, on each kind of port."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

TURN, CONNECT, RESET, PAUSE = b"\x06", b"\x05\x01", b"\x07\x00", b"\x47"


def out(queue: int, data: bytes) -> bytes:
    """A request with one piece to read. Eight queues, so the queue is bits 3 to 5 of the step."""
    return bytes([queue << 3, 0x01, len(data) - 1]) + data[:16]


def room(queue: int, size: int, pieces: int = 1) -> bytes:
    """A request with pieces to write."""
    return bytes([queue << 3, pieces << 2]) + bytes([size - 1]) * pieces


def control(port: int, event: int, value: int) -> bytes:
    return out(3, struct.pack("<IHH", port, event, value))


OPEN = control(0xFFFFFFFF, 0, 1) + room(2, 64) * 3 + TURN + b"".join(
    control(port, 3, 1) + room(2, 64) * 3 + TURN + control(port, 6, 1) + TURN for port in range(3))
STEPS = [
    OPEN, OPEN + out(1, b"hello guest") + TURN + room(0, 100, 2) + b"\x03\x20" + TURN * 2,
    OPEN + CONNECT + TURN + out(5, b"to the client") + TURN + b"\x05\x21" + room(4, 200) + TURN + b"\x05\x08" + TURN,
    out(1, b"0123456789abcdef") * 8 + TURN + b"\x04\x02" + TURN + PAUSE + b"\x04\x05" + TURN + RESET + TURN,
    room(0, 20) * 5 + TURN + b"\x03\xff" + TURN + PAUSE + TURN + RESET + room(0, 200) * 3 + TURN,
    OPEN + CONNECT + b"\x05\x21" + b"\x05\x18" + TURN + room(4, 8) + TURN * 2 + b"\x05\x08" + CONNECT + TURN,
    b"\x17" + TURN + out(1, b"x") + TURN, control(9, 99, 9) + TURN + room(2, 4) + TURN,
]

folder = Path(sys.argv[1])
for number, steps in enumerate(STEPS):
    for how in (0x00, 0x40, 0x80, 0x02):
        (folder / f"{number}-{how:02x}").write_bytes(bytes([how]) + steps)
