# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz target: ``python seeds.py DIRECTORY``. Standard library only."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

RAM = 0x40000000


def access(offset: int, width: int, write: int, data: bytes = b"") -> bytes:
    return bytes([width | write << 2, offset]) + data.ljust(8, b"\0")


def seed(pc: bool, control: int, length: int, address: int) -> bytes:
    """A DMA request, started, and reads of the item after it."""
    ram = struct.pack(">IIQ", control, length, address).ljust(1024, b"\x55")
    dma, selector, data = (4, 0, 1) if pc else (16, 8, 0)
    return bytes([pc]) + ram + access(dma, 2, 1) + access(dma + 4, 2, 1, struct.pack(">I", RAM)) \
        + access(selector, 1, 1, struct.pack("<H" if pc else ">H", 0x19)) + access(data, 0, 0) * 4


def main() -> None:
    for pc in (False, True):
        for name, control, length, address in (
                ("read", 0x20000A, 9, RAM + 512), ("cross", 0x11000A, 4096, RAM + 100), ("skip", 0x11000C, 64, 0),
                ("write", 0x200018, 4, RAM), ("outside", 0x11000A, 8192, RAM + 4096),
                ("wrap", 0x11000A, 64, 2**64 - 8)):
            (Path(sys.argv[1]) / f"{name}-{pc:d}").write_bytes(seed(pc, control, length, address))


if __name__ == "__main__":
    main()
