# SPDX-License-Identifier: Apache-2.0
"""Seeds for fuzz_net: each mode started, with buffers, frames both ways, a stop. ``python seeds.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

START, STOP, RUN, KICK_RX, KICK_TX = b"\x09\1\1\1", b"\x09\1\x0f", b"\x07\x40", b"\x05", b"\x06"
BUFFERS = b"\x0b\x1f" * 8 + b"\x0b\x0f"
#: one piece of 60 bytes to send, of which 16 are given
SEND = b"\x02\x01\x08" + bytes(16)


def host_frame(size_code: int, head: bytes) -> bytes:
    return b"\x04" + bytes((size_code, len(head))) + head


def main(folder: Path) -> None:
    for mode in range(3):
        for mergeable in (0, 8):
            for limit in (b"\0", b"\1\x05\x05\x05"):
                head = b"\0\0\0\x38" if mode == 2 else b"\xff" * 12
                seed = bytes((mode, mergeable)) + limit + b"\1" + START + BUFFERS + KICK_RX
                seed += host_frame(8, head) * 3 + RUN + host_frame(12, b"\0\0\xff\xfb") + RUN
                seed += SEND * 4 + KICK_TX + RUN + b"\x08\x0c" + RUN + STOP + START + BUFFERS + KICK_RX + RUN
                name = f"{mode}-{mergeable}-{len(limit)}"
                (folder / name).write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
