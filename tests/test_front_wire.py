# SPDX-License-Identifier: Apache-2.0
"""The control messages: everything valid arrives, everything else is a ValueError and leaks nothing."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest

from vmmcore import wire


def anything(rnd: random.Random, depth: int = 0) -> Any:
    kind = rnd.randrange(9 if depth < 5 else 6)
    if kind < 2:
        return rnd.choice([None, True, False, 0, -1, 1 << 70])
    if kind == 2:
        return rnd.randrange(-(10**20), 10**20)
    if kind == 3:
        return rnd.random() * 10.0 ** rnd.randrange(-300, 300)
    if kind < 6:
        return "".join(
            chr(rnd.choice([rnd.randrange(128), rnd.randrange(0xD7FF), 0x1F600]))
            for _ in range(rnd.randrange(9))
        )
    if kind == 6:
        return [anything(rnd, depth + 1) for _ in range(rnd.randrange(5))]
    return {str(rnd.random()): anything(rnd, depth + 1) for _ in range(rnd.randrange(5))}


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_agrees_with_json() -> None:
    rnd = random.Random(1)
    for _ in range(1000):
        value = anything(rnd)
        assert json.loads(wire.encode(value)) == value
        text = json.dumps(value, ensure_ascii=rnd.random() < 0.5, indent=rnd.choice([None, 1]))
        assert wire.decode(text.encode()) == value


def test_damaged_messages_are_refused_or_valid_json() -> None:
    rnd = random.Random(2)
    refused = 0
    for _ in range(20000):
        data = bytearray(wire.encode(anything(rnd)))
        for _ in range(rnd.randrange(1, 4)):
            at = rnd.randrange(len(data) + 1)
            if rnd.random() < 0.5:
                data[at : at + 1] = bytes([rnd.randrange(1, 256)])
            else:
                data[at:at] = bytes([rnd.choice(b'{}[]",:\\u0e-.')])
        try:
            value = wire.decode(bytes(data))
        except ValueError:
            refused += 1
        else:
            assert json.loads(data) == value
    assert 1000 < refused < 20000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b'{"a":1,}',
        b"[" * 100000,
        b"NaN",
        b"01",
        b"1 2",
        b"\xff",
        b'"\n"',
        b'"\\x"',
        b'"\\ud8"',
        b'{"$bytes":"!"}',
        b'{"$bytes":1}',
        b"1" * 10000,
        b"1.",
        b"1e",
        b"-",
        b"{1:2}",
        b'"abc',
        b"tru",
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.decode(data)


def test_bytes_and_descriptors_travel() -> None:
    a, b = wire.pair()
    before = open_fds()
    read, write = os.pipe()
    for size in (10, 300_000):
        wire.send(a, {"data": bytes(range(256)) * (size // 256 + 1), "n": size}, [read])
        received = wire.receive(b)
        assert received is not None
        message, (fd,) = received
        assert message["data"][:256] == bytes(range(256))
        assert message["n"] == size
        os.write(write, b"x")
        assert os.read(fd, 1) == b"x"
        assert not os.get_inheritable(fd)
        os.close(fd)
    os.close(read)
    os.close(write)
    assert open_fds() == before
    a.close()
    assert wire.receive(b) is None
    b.close()


@pytest.mark.parametrize("message", [{"$memfd": 10}, {"$memfd": 1 << 40}, {"$memfd": -1}, {"$memfd": "x"}])
@pytest.mark.parametrize("with_fd", [False, True])
def test_lies_about_long_messages(message: dict[str, Any], with_fd: bool) -> None:
    a, b = wire.pair()
    read, write = os.pipe()
    before = open_fds()
    wire.send(a, message, [read] if with_fd else [])
    with pytest.raises(ValueError, match="message"):
        wire.receive(b)
    assert open_fds() == before
    for closable in (a, b):
        closable.close()
    os.close(read)
    os.close(write)


def test_too_large_to_send() -> None:
    a, b = wire.pair()
    with pytest.raises(ValueError, match="too large"):
        wire.send(a, {"x": "y" * wire.MAX_MESSAGE})
    with pytest.raises(ValueError, match="cannot be sent"):
        wire.send(a, {"x": object()})
    with pytest.raises(ValueError, match="cannot be sent"):
        wire.send(a, {"x": float("inf")})
    a.close()
    b.close()
