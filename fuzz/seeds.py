# SPDX-License-Identifier: Apache-2.0
"""Writes a few seed inputs for each fuzz target: ``seeds.py DIRECTORY``, one folder each."""

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


def queue() -> dict[str, bytes]:
    """Well-formed requests, as fuzz_queue.c reads them."""

    def descriptor(kind: int, index: int, at: int, length: int, a: int, b: int) -> bytes:
        return bytes([0, kind, index, 6, at & 0xFF, at >> 8, 0, length, a, b])

    done = bytes([5, 0, 5, 4, 5, 5, 5, 6])  # pop, push, flush, wait
    seeds = {}
    for name, kind in {"split": 0x06, "split-all": 0x36, "packed": 0x07, "packed-all": 0x37, "odd": 0x3F}.items():
        packed = kind & 1
        one = descriptor(0, 0, 0x4000, 64, 9 if packed else 0, 8 if packed else 0)
        two = descriptor(0, 0, 0x4000, 64, 9 if packed else 1, 9 if packed else 1)
        two += descriptor(0, 1, 0x4100, 64, 9 if packed else 2, 10 if packed else 0)
        table = bytes([0, 2, 6, 0, 0x40, 0, 32, 0, 0]) + bytes([0, 0, 0, 6, 0, 0x30, 0x41, 4, 12 if packed else 0])
        head = b"" if packed else bytes([0, 3, 0])
        seeds[name] = bytes([kind]) + (two + head + done) * 6
        seeds[f"{name}-one"] = bytes([kind]) + (one + head + done) * 12
        seeds[f"{name}-table"] = bytes([kind]) + (table + head + done) * 3
        seeds[f"{name}-anywhere"] = bytes([kind | 0x80, 6, 0, 0x10, 6, 0, 0x20, 6, 0, 0x50]) + (two + head + done) * 3
    return seeds


def virtio() -> dict[str, bytes]:
    """Activations, requests and resets, as fuzz_virtio.c reads them."""
    serve = bytes([0, 0])
    request = bytes([1, 14, 0, 0x20, 2, 0]) + bytes([0, 3])
    off = bytes([1, 15])
    seeds = {}
    for n in range(4):
        up = bytes([1, 12 | n << 6, 7]) + serve
        seeds[f"up{n}"] = up + request * 3 + off + serve + up + request
        seeds[f"pause{n}"] = up + request + bytes([0, 0x87]) + request + bytes([0, 5]) + request + off + serve
        seeds[f"fail{n}"] = up + bytes([0, 7]) + serve + off + serve + up + request
        queue_reset = bytes([1, 0, 5, 0, 1, 0, 12, 1]) + serve
        seeds[f"queue{n}"] = up + queue_reset + bytes([1, 0, 8, 1]) + serve + request
    seeds["config"] = bytes([1, 6, 4, 0x82, 4, 0, 6, 0x20]) * 4 + bytes([1, 10, 20, 4, 1, 0x1A, 20, 9])
    return seeds


def main(folder: Path) -> None:
    targets = {"fuzz_pci": pci(), "fuzz_bus": bus(), "fuzz_queue": queue(), "fuzz_virtio": virtio()}
    for target, seeds in targets.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (folder / target / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
