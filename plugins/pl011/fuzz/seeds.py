# SPDX-License-Identifier: Apache-2.0
"""Seeds for fuzz_pl011: a driver's start, input and output, loopback, a slow host. ``python seeds.py FOLDER``."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

READ, WRITE, INPUT, ROOM = range(4)
DR, FR, LCR_H, CR, IFLS, IMSC, ICR = 0x000, 0x018, 0x02C, 0x030, 0x034, 0x038, 0x044


def step(kind: int, register: int = 0, value: int = 0, size_code: int = 2) -> bytes:
    return struct.pack("<BBH", kind | size_code << 2, register >> 2, value)


START = step(WRITE, LCR_H, 0x70) + step(WRITE, CR, 0x301) + step(WRITE, IFLS, 0x12) + step(WRITE, IMSC, 0x7FF)
SEEDS = {
    "output": START + step(WRITE, DR, 65) * 40 + step(READ, FR),
    "slow-host": START + step(ROOM, value=3) + step(WRITE, DR, 65) * 40 + step(ROOM, value=255) + step(WRITE, ICR, 0x7FF),
    "input": START + step(INPUT, value=0x4142, size_code=3) * 5 + step(READ, DR) * 40 + step(INPUT, value=1),
    "loopback": START + step(WRITE, CR, 0x381) + step(WRITE, DR, 66) * 40 + step(READ, DR) * 40 + step(WRITE, LCR_H, 0),
}


def main(folder: Path) -> None:
    for name, seed in SEEDS.items():
        (folder / name).write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
