# SPDX-License-Identifier: Apache-2.0
"""Writes first inputs for native/fuzz_blk.c into a folder: each type of request, on disks of several kinds."""

from __future__ import annotations

import struct
import sys
from pathlib import Path


def request(kind: int, sector: int, out: bytes, out_choice: int, ins: list[int]) -> bytes:
    pieces = [16, out_choice] if out_choice else [16]
    body = bytes([16]) + struct.pack("<IIQ", kind, 0, sector)
    if out_choice:
        body += bytes([out_choice]) + out
    return bytes([len(pieces) | len(ins) << 4]) + body + bytes(ins)


SEGMENT = struct.pack("<QII", 8, 8, 0)
REQUESTS = [
    request(0, 8, b"", 0, [130, 1]), request(0, 0, b"", 0, [134, 134, 1]), request(1, 3, bytes(64), 130, [1]),
    request(4, 0, b"", 0, [1]), request(8, 0, b"", 0, [20, 1]), request(11, 0, SEGMENT, 16, [1]),
    request(13, 0, SEGMENT * 2, 32, [1]), request(13, 0, struct.pack("<QII", 0, 16, 1), 16, [1]),
    request(0, 63, b"", 0, [130, 1]), request(99, 0, b"", 0, [1]),
]

folder = Path(sys.argv[1])
for number, body in enumerate(REQUESTS):
    for choice in (0xA4, 0xA1, 0xBA, 0xE6):
        for how in (0, 0x40, 0x81, 0xA0):
            (folder / f"{number}-{choice}-{how}").write_bytes(bytes([choice, how]) + body)
(folder / "all").write_bytes(b"\xa4\0" + b"".join(REQUESTS))
