# SPDX-License-Identifier: Apache-2.0
"""Resets, pauses, queue resets and removal of real virtio devices amid their I/O, in every order."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

testkit = pytest.importorskip("vmm_testkit.virtio", reason="needs the testkit: pip install vmm-testkit")

pytestmark = pytest.mark.needs_kvm

Submit = Callable[[Any, random.Random], None]


def blk(driver: Any, pick: random.Random) -> None:
    """Reads, writes and flushes of the first 64 KiB."""
    kind, sectors = pick.choice((0, 1, 4)), pick.choice((1, 4, 8))
    header = kind.to_bytes(4, "little") + bytes(4) + pick.randrange(64).to_bytes(8, "little")
    data = [bytes(512 * sectors)] if kind == 1 else []
    driver.submit(0, [header, *data], [512 * sectors, 1] if kind == 0 else [1])


def rng(driver: Any, pick: random.Random) -> None:
    driver.submit(0, [], [pick.randrange(1, 20_000)])


def net(driver: Any, pick: random.Random) -> None:
    driver.submit(0, [], [2048])
    driver.submit(1, [bytes(12) + b"v" * pick.randrange(60, 1500)], [])


@pytest.fixture
def flags(tmp_path: Path) -> Iterator[Callable[[str], tuple[str, str]]]:
    """What makes a device of that name: a flag and its options."""
    drains: list[threading.Thread] = []

    def drain(end: socket.socket) -> None:
        with end:
            while end.recv(1 << 16):
                pass

    def make(name: str) -> tuple[str, str]:
        if find_spec(f"vmm_virtio_{name}") is None:
            pytest.skip(f"vmm-virtio-{name} is not installed: pip install ./plugins/virtio-{name}")
        if name == "blk":
            (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
            return "--disk", f"path={tmp_path}/disk.img,"
        if name == "net":
            ours, theirs = socket.socketpair()
            ours.sendall((len(frame := b"\xff" * 64).to_bytes(4, "big") + frame) * 50)
            drains.append(threading.Thread(target=drain, args=[ours]))
            drains[-1].start()
            return "--net", f"fd={theirs.detach()},"
        return f"--{name}", ""

    yield make
    for thread in drains:
        thread.join()


@pytest.mark.parametrize("ring", ["packed=off", "packed=on"])
@pytest.mark.parametrize(("name", "submit", "queues"), [("blk", blk, [0]), ("rng", rng, [0]), ("net", net, [0, 1])])
def test_life_cycle_amid_io(
    flags: Callable[[str], tuple[str, str]], name: str, submit: Submit, queues: list[int], ring: str
) -> None:
    flag, options = flags(name)
    before = len(os.listdir("/proc/self/fd"))
    with testkit.VirtioDriver.flag(flag, options + ring) as driver:
        for seed in range(40):
            pick = random.Random(seed)
            driver.start(queues=queues)
            for _ in range(pick.randrange(1, 20)):
                submit(driver, pick)
            match pick.randrange(5):
                case 0:
                    driver.reset()
                case 1:
                    driver.machine.pause()
                    driver.machine.resume()
                case 2:
                    queue = pick.choice(queues)
                    driver.reset_queue(queue)
                    driver.setup_queue(queue)
                    submit(driver, pick)
                case 3:
                    driver.settle()
                case _:
                    for token in list(driver.queues[queues[-1]].pending.values()):
                        driver.wait(queues[-1], token)
            assert not driver.status & testkit.NEEDS_RESET
        driver.start(queues=queues)
        for _ in range(20):
            submit(driver, pick)
        driver.machine.remove_device(driver.device.id)
    assert len(os.listdir("/proc/self/fd")) <= before  # less: the other end of a socket sees that it is gone
