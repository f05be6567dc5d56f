# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of the fuzz target: ``python seeds.py DIRECTORY``. Standard library only."""

from __future__ import annotations

import struct
import sys
from pathlib import Path


def elf(phoff: int = 64) -> bytes:
    """A small ELF64 kernel with two loads and a PVH note."""
    table = b"".join((
        struct.pack("<IIQQQQQQ", 1, 5, 0x200, 0xFFFFFFFF81000000, 0x1000000, 0x100, 0x100, 0x1000),
        struct.pack("<IIQQQQQQ", 1, 6, 0x300, 0xFFFFFFFF81001000, 0x1001000, 0x40, 0x1000, 0x1000),
        struct.pack("<IIQQQQQQ", 4, 4, 0x340, 0, 0, 24, 24, 4)))
    image = bytearray(0x400)
    struct.pack_into("<4sBBB9xHHIQQQIHHHHHH", image, 0, b"\x7fELF", 2, 1, 1, 2, 62, 1, 0x1000000, phoff, 0, 0,
                     64, 56, 3, 64, 0, 0)
    image[phoff : phoff + len(table)] = table
    struct.pack_into("<III4sQ", image, 0x340, 4, 8, 18, b"Xen\0", 0x1000010)
    return bytes(image)


def bzimage() -> bytes:
    """A small bzImage with a valid setup header."""
    image = bytearray(0x400 + 0x400)
    for offset, kind, value in (
            (0x1F1, "B", 1), (0x1F4, "I", 0x40), (0x1FE, "H", 0xAA55), (0x200, "H", 0x6AEB),
            (0x202, "I", 0x53726448), (0x206, "H", 0x20F), (0x211, "B", 1), (0x22C, "I", 0x7FFFFFFF),
            (0x230, "I", 0x200000), (0x234, "B", 1), (0x236, "H", 0x3F), (0x238, "I", 2047),
            (0x248, "I", 0x210), (0x24C, "I", 0x100), (0x258, "Q", 0x1000000), (0x260, "I", 0x100000)):
        struct.pack_into("<" + kind, image, offset, value)
    return bytes(image)


def arm64() -> bytes:
    """A small arm64 Image with a PE header of one section."""
    image = bytearray(0x400)
    struct.pack_into("<2s6xQQQ", image, 0, b"MZ", 0, 0x10000, 0xA)
    struct.pack_into("<4sI", image, 56, b"ARM\x64", 64)
    struct.pack_into("<4sHH12xHH", image, 64, b"PE", 0xAA64, 1, 0x20, 0)
    struct.pack_into("<8sIIII", image, 64 + 24 + 0x20, b".text", 0x200, 0x200, 0x200, 0x200)
    return bytes(image)


def zboot() -> bytes:
    """A small EFI zboot image."""
    image = bytearray(0x400)
    struct.pack_into("<4s4sII8x32s", image, 0, b"MZ", b"zimg", 0x200, 0x100, b"zstd22")
    struct.pack_into("<I", image, 60, 64)
    struct.pack_into("<4sH", image, 64, b"PE", 0xAA64)
    return bytes(image)


def main() -> None:
    """Every file with all of it in the first piece, and with only its first bytes."""
    directory = Path(sys.argv[1])
    files = {"elf": elf(), "elf-far": elf(0x258), "bzimage": bzimage(), "arm64": arm64(), "zboot": zboot()}
    for name, data in files.items():
        for head in (255, 20):
            (directory / f"{name}-{head}").write_bytes(bytes([head]) + bytes(4) + data)
        (directory / f"{name}-cut").write_bytes(b"\xff\xff\0\0\0" + data[: len(data) // 2])


if __name__ == "__main__":
    main()
