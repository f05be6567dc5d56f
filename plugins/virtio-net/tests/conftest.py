# SPDX-License-Identifier: Apache-2.0
"""TAPs of the host that tests run on, and a raw socket on their other side."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

#: an EtherType that nobody else uses on a TAP (IEEE's for local experiments)
ETHERTYPE = 0x88B5


def tap_problem() -> str | None:
    """Why no TAP can be made here, or None."""
    from vmmcore.errors import UserError

    from vmm_virtio_net import tap

    if os.geteuid() != 0:
        return "needs root (or CAP_NET_ADMIN) to make TAPs"
    try:
        _, fds = tap.open_tap(None, 1, "--net")
    except UserError as error:
        return f"no TAP: {error}"
    os.close(fds[0])
    return None


@pytest.fixture
def taps() -> None:
    """Skip where no TAP can be made."""
    problem = tap_problem()
    if problem is not None:
        pytest.skip(problem)


@pytest.fixture
def tap_name(taps: None) -> Iterator[str]:
    """A name for a TAP; nothing of that name is left at the end."""
    name = f"vmmt{os.getpid() % 100000}"
    yield name
    assert not Path(f"/sys/class/net/{name}").exists(), "the TAP is still there"


class Wire:
    """A raw socket on an interface, which sees only our own kind of frames."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        self.socket.bind((name, 0))
        self.socket.settimeout(5)

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def receive(self) -> bytes:
        """The next frame that came from the guest. Raises TimeoutError."""
        while True:
            frame, address = self.socket.recvfrom(1 << 17)
            if address[2] != socket.PACKET_OUTGOING:
                return frame

    def close(self) -> None:
        self.socket.close()


def frame_for(mac: bytes, payload: bytes) -> bytes:
    return mac + b"\x02\0\0\0\0\x01" + ETHERTYPE.to_bytes(2, "big") + payload
