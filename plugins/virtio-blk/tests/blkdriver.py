# SPDX-License-Identifier: Apache-2.0
"""Block requests (virtio 1.2 §5.2.6) on top of the testkit's virtio driver."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vmm_testkit.virtio import Token, VirtioDriver

IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
SECTOR = 512
F_RO, F_FLUSH, F_CONFIG_WCE, F_MQ, F_DISCARD, F_WRITE_ZEROES = (1 << bit for bit in (5, 9, 11, 12, 13, 14))


class Disk(VirtioDriver):
    """A disk made by ``--disk``, and requests for it. ``status`` of a request comes first."""

    @classmethod
    def at(cls, path: Path, more: str = "", **start: Any) -> Disk:
        disk = cls.flag("--disk", f"path={path}" + (f",{more}" if more else ""))
        try:
            disk.start(**start)
        except BaseException:
            disk.close()
            raise
        return disk

    def ask(self, kind: int, sector: int = 0, data: Iterable[bytes] = (), room: Iterable[int] = (),
            queue: int = 0) -> tuple[int, bytes]:
        """Status and data of a request."""
        return self.result(self.post(kind, sector, data, room, queue=queue), queue)

    def post(self, kind: int, sector: int = 0, data: Iterable[bytes] = (), room: Iterable[int] = (), *,
             queue: int = 0, kick: bool = True) -> Token:
        return self.submit(queue, [struct.pack("<IIQ", kind, 0, sector), *data], [*room, 1], kick=kick)

    def result(self, token: Token, queue: int = 0) -> tuple[int, bytes]:
        pieces = self.wait(queue, token).pieces
        return pieces[-1][0], b"".join(pieces[:-1])

    def read(self, sector: int, size: int = SECTOR, queue: int = 0) -> bytes:
        status, data = self.ask(IN, sector, room=[size], queue=queue)
        assert status == OK
        return data

    def write(self, sector: int, data: bytes, queue: int = 0) -> None:
        status, _ = self.ask(OUT, sector, [data], queue=queue)
        assert status == OK

    def ranges(self, kind: int, *segments: tuple[int, int, int]) -> int:
        """Status of a discard or write zeroes request: (sector, sectors, flags), …"""
        return self.ask(kind, 0, [b"".join(struct.pack("<QII", *segment) for segment in segments)])[0]

    def count(self, name: str) -> int:
        return self.device.counters()[name]
