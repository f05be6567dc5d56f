# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz target: ``python seeds.py DIRECTORY``. Standard library only."""

from __future__ import annotations

import struct
import sys
from pathlib import Path


def write(offset: int, value: int) -> bytes:
    return struct.pack("<I", offset << 8 | 2) + struct.pack("<I", value)


def command(value: int, offset: int = 0) -> bytes:
    return write(offset, value << 16 | value)


def read(offset: int) -> bytes:
    return struct.pack("<I", offset << 8 | 2 | 4) + bytes(4)


SEEDS = {
    "program": command(0x40, 64) + write(64, 0x12345678) + read(0) + command(0x50) + command(0xFF),
    "buffer": command(0xE8, 128) + read(128) + command(3, 128) + b"".join(write(128 + 4 * i, i) for i in range(4))
              + command(0xD0) + read(0) + command(0xFF),
    "erase": command(0x20, 0x40000) + command(0xD0, 0x40000) + read(0) + command(0xFF),
    "lock": command(0x60) + command(0x01) + command(0x90) + read(8) + command(0x60) + command(0xD0) + command(0xFF),
    "query": command(0x98, 0x154) + read(0x40) + read(0x9C) + command(0xFF),
}


def main() -> None:
    for name, data in SEEDS.items():
        for first in range(4):
            (Path(sys.argv[1]) / f"{name}-{first}").write_bytes(bytes([first]) + data)


if __name__ == "__main__":
    main()
