# SPDX-License-Identifier: Apache-2.0
"""Writes a few seed inputs for fuzz_bus and fuzz_pci: ``seeds.py DIRECTORY``, one folder each."""

from __future__ import annotations

import sys
from pathlib import Path


def guest(kind: int, at: int, value: bytes, tail: bytes = b"") -> bytes:
    return bytes([1, kind]) + at.to_bytes(2, "little") + value + tail


def host(kind: int, slot: int) -> bytes:
    return bytes([0, kind, slot])


def word(value: int) -> bytes:
    """A free value of eight bytes, as ``value()`` of fuzz_pci.c reads it."""
    return b"\x05" + value.to_bytes(8, "little")


def config(slot: int, at: int, value: int) -> bytes:
    return guest(0xC0, at, word(value), bytes([slot]))


def pci() -> dict[str, bytes]:
    on = host(0x00, 1) + host(0x10, 2) + host(0x20, 3)
    low = config(1, 0x10, 0xC0000000) + config(2, 0x10, 0xC0001000) + config(2, 0x14, 0xC0002000)
    wide = config(3, 0x10, 0) + config(3, 0x14, 0x40)
    enable = b"".join(config(slot, 4, 7) for slot in (1, 2, 3))
    unmask = guest(0xC6, 12, word(0), b"\x00") + config(1, 0x50, 0x80000011)
    swap = config(1, 0x10, 0xC0001000) + config(2, 0x10, 0xC0000000)
    swap_own = config(2, 0x10, 0xC0002000) + config(2, 0x14, 0xC0001000)
    same = config(1, 0x10, 0xC0000000) + config(2, 0x10, 0xC0000000) + enable
    return {
        "attach": on + enable,
        "own": on + low + enable + swap_own,
        "leave": on + same + host(0x02, 0),
        "bars": on + low + wide + enable + swap,
        "msix": on + low + enable + unmask + host(0x07, 0),
        "life": on + low + enable + host(0x05, 0) + host(0x04, 0) + host(0x06, 0) + host(0x12, 0) + host(0x03, 0),
    }


def bus() -> dict[str, bytes]:
    adds = b"".join(bytes([0, i % 8, 8 * i, 8]) for i in range(12))
    return {
        "add": adds,
        "access": adds + b"".join(bytes([4, i % 8, i, 0x40 + i]) for i in range(32)),
        "move": adds + b"".join(bytes([3, i, 7 - i % 8, 8]) for i in range(12)),
        "remove": adds + b"".join(bytes([2, i]) for i in range(12)),
    }


def main(folder: Path) -> None:
    for target, seeds in {"fuzz_pci": pci(), "fuzz_bus": bus()}.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / target / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
