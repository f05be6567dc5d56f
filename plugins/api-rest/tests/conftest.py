# SPDX-License-Identifier: Apache-2.0
"""Processes that serve the API, and tiny guests for them to run."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_served import FOREVER, MIB, Served
from vmm_testkit.baremetal import BareMetal


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start processes that serve the API; they are ended after the test."""
    started: list[Served] = []

    def start(*args: str, **more: Any) -> Served:
        started.append(Served(more.pop("socket", tmp_path / f"api{len(started)}.sock"), *args, **more))
        return started[-1].ready()

    yield start
    for served in started:
        served.stop()


@pytest.fixture
def api(serve: Callable[..., Served]) -> Served:
    """One that waits for vm.create."""
    return serve()


@pytest.fixture(scope="session")
def forever() -> Path:
    """A guest that runs until it is ended."""
    return BareMetal(FOREVER).build()


@pytest.fixture(scope="session")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that waits for vm.create, the same for all tests: for requests that change nothing."""
    served = Served(tmp_path_factory.mktemp("idle") / "api.sock").ready()
    yield served
    served.stop()


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory, forever: Path) -> Iterator[Served]:
    """One whose VM runs, likewise."""
    served = Served(tmp_path_factory.mktemp("steady") / "api.sock").ready()
    served.create(forever)
    served.call("PUT", "vm.boot")
    yield served
    served.stop()


@pytest.fixture
def running(api: Served, forever: Path) -> Served:
    """One whose VM runs."""
    api.create(forever)
    api.call("PUT", "vm.boot")
    return api


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, MIB)
    return path


@pytest.fixture
def tap() -> Iterator[int]:
    """A TAP's descriptor."""
    fd = _tap("apitap%d")
    yield fd
    os.close(fd)


@pytest.fixture
def taps() -> Iterator[list[int]]:
    """Descriptors of one TAP with two queues."""
    name = f"apitaps{os.getpid() % 10**6}"
    fds = [_tap(name, IFF_MULTI_QUEUE) for _ in range(2)]
    yield fds
    for fd in fds:
        os.close(fd)


TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_MULTI_QUEUE, IFF_VNET_HDR = 0x400454CA, 0x2, 0x1000, 0x100, 0x4000  # linux/if_tun.h


def _tap(name: str, flags: int = 0) -> int:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"needs /dev/net/tun; modprobe tun: {error}")
    try:
        flags |= IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        os.close(fd)
        pytest.skip(f"needs the right to make a TAP; run it as root: {error}")
    return fd
