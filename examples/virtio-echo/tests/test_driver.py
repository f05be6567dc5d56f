# SPDX-License-Identifier: Apache-2.0
"""The device against a driver in Python: the real core, no guest. Each test runs with both halves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from vmm_testkit.virtio import VirtioDriver

from vmm_virtio_echo.device import Echo

pytestmark = pytest.mark.needs_kvm


@pytest.fixture(params=[(native, packed) for native in (False, True) for packed in (False, True)],
                ids=["python", "python, packed", "C", "C, packed"])  # fmt: skip
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    native, packed = request.param
    return {"native": native, "packed": packed}


@pytest.fixture
def driver(options: dict[str, Any]) -> Iterator[VirtioDriver]:
    with VirtioDriver(Echo, options=options) as made:
        made.start()
        yield made


def test_echo(driver: VirtioDriver) -> None:
    assert driver.request(0, out=[b"hello"], in_=[64]).data == b"hello"


def test_pieces_of_any_sizes(driver: VirtioDriver) -> None:
    out = [b"a", bytes(4097), b"bc" * 100, b"d"]
    reply = driver.request(0, out=out, in_=[3, 1, 5000, 10])
    assert reply.data == b"".join(out)


def test_no_more_than_there_is_room_for(driver: VirtioDriver) -> None:
    reply = driver.request(0, out=[b"0123456789"], in_=[4])
    assert (reply.length, reply.data) == (4, b"0123")
    assert driver.request(0, out=[b"x"]).length == 0
    assert driver.request(0, in_=[8]).length == 0


def test_many_at_once_and_round_the_ring(driver: VirtioDriver) -> None:
    for turn in range(10):
        tokens = [driver.submit(0, out=[b"%d.%d" % (turn, n)], in_=[16]) for n in range(20)]
        driver.kick(0)
        for n, token in enumerate(tokens):
            assert driver.wait(0, token).data == b"%d.%d" % (turn, n)


def test_counter(driver: VirtioDriver) -> None:
    driver.request(0, out=[b"12345"], in_=[16])
    assert driver.machine.counters()["dev0"]["bytes"] == 5


def test_reset_and_again(driver: VirtioDriver) -> None:
    for _ in range(5):
        assert driver.request(0, out=[b"again"], in_=[8]).data == b"again"
        driver.reset()
        driver.start()


def test_a_broken_ring_stops_the_device_until_its_reset(driver: VirtioDriver) -> None:
    from vmm_testkit.virtio import NEEDS_RESET

    bad = driver.queues[0].add([(1 << 40, 16, False)])  # where no memory is
    driver.kick(0)
    driver.wait_until(lambda: bool(driver.status & NEEDS_RESET), "NEEDS_RESET")
    assert not bad.done
    driver.reset()
    driver.start()
    assert driver.request(0, out=[b"fine"], in_=[8]).data == b"fine"


def test_a_reload_takes_the_ring_over(driver: VirtioDriver) -> None:
    from vmmcore.machine.reload import reload_device  # what SIGUSR1 and Vm.reload_device() come to

    for n in range(3 * 64):
        if n % 10 == 0:
            late = driver.submit(0, out=[b"late"], in_=[8])  # available, and nobody has been told
            reload_device(driver.machine, "dev0")
            driver.device = driver.machine.devices["dev0"]
            assert driver.wait(0, late).data == b"late"
        assert driver.request(0, out=[b"%d" % n], in_=[8]).data == b"%d" % n
