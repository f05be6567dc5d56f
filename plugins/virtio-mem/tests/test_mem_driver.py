# SPDX-License-Identifier: Apache-2.0
"""The device in a machine without a CPU, with a driver in Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vmm_testkit.virtio import VirtioDriver
from vmmcore.errors import VmmError

from vmm_virtio_mem.device import Mem

pytestmark = pytest.mark.needs_kvm

MIB = 1 << 20
BLOCK = 2 * MIB
BASE, SIZE = 32 << 30, 1024 * MIB
PLUG, UNPLUG, UNPLUG_ALL, STATE = range(4)
ACK, NACK, BUSY, ERROR = range(4)
PLUGGED, UNPLUGGED, MIXED = range(3)
OPTIONS: dict[str, Any] = {"zone": "", "address": BASE, "region_size": SIZE, "block_size": BLOCK, "requested_size": 0,
                           "node": None, "memory": {"thp": True}}


class Driver(VirtioDriver):
    """Requests of virtio 1.2 §5.15.6."""

    device: Mem

    def ask(self, kind: int, block: int = 0, count: int = 0, *, address: int | None = None) -> int:
        address = BASE + block * BLOCK if address is None else address
        request = kind.to_bytes(8, "little") + address.to_bytes(8, "little") + count.to_bytes(8, "little")
        reply = self.request(0, out=[request[:3], request[3:]], in_=[1, 9])
        assert reply.length == 10
        self.answer_state = int.from_bytes(reply.data[8:10], "little")
        return int.from_bytes(reply.data[:2], "little")

    def state(self, block: int, count: int) -> int:
        assert self.ask(STATE, block, count) == ACK
        return self.answer_state

    def number(self, offset: int) -> int:
        return int.from_bytes(self.device.config[offset : offset + 8], "little")

    @property
    def usable(self) -> int:
        return self.number(32)

    @property
    def plugged(self) -> int:
        assert self.number(40) == self.device.memory_delta
        return self.number(40)

    @property
    def requested(self) -> int:
        return self.number(48)


@pytest.fixture(params=[{}, {"packed": True}, {"memory": {"shared": True}}, {"memory": {"prefault": True}}], ids=str)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    with Driver(Mem, options={**OPTIONS, **request.param}) as found:
        found.start()
        yield found


def test_configuration_says_where_the_region_is(driver: Driver) -> None:
    assert [driver.number(offset) for offset in (0, 8, 16, 24)] == [BLOCK, 0, BASE, SIZE]
    assert (driver.plugged, driver.requested) == (0, 0)
    assert driver.offered & 3 == 2  # no node; what is not plugged is to be left alone


def test_plug_up_to_what_was_asked_for_and_back(driver: Driver) -> None:
    assert driver.ask(PLUG, 0, 1) == NACK, "nothing was asked for"
    driver.device.resize(8 * BLOCK)
    assert driver.requested == 8 * BLOCK and driver.usable >= 8 * BLOCK
    assert driver.ask(PLUG, 0, 4) == ACK
    assert driver.plugged == 4 * BLOCK
    assert driver.ask(PLUG, 10, 4) == ACK
    assert driver.ask(PLUG, 20, 1) == NACK, "more than was asked for"
    assert driver.ask(PLUG, 3, 1) == ERROR, "plugged already"
    assert [driver.state(0, 4), driver.state(4, 6), driver.state(3, 2)] == [PLUGGED, UNPLUGGED, MIXED]
    driver.device.resize(2 * BLOCK)
    assert driver.ask(UNPLUG, 3, 2) == ERROR, "half of it is not plugged"
    assert driver.plugged == 8 * BLOCK
    assert driver.ask(UNPLUG, 10, 4) == ACK
    assert driver.ask(UNPLUG, 2, 2) == ACK
    assert driver.plugged == driver.requested == 2 * BLOCK
    assert driver.ask(UNPLUG_ALL) == ACK
    assert driver.plugged == 0 and driver.state(0, 100) == UNPLUGGED


def test_unplugged_memory_goes_back_to_the_host_and_reads_as_zeros(driver: Driver) -> None:
    def resident() -> int:
        text = Path("/proc/self/status").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("RssAnon", "RssShmem"))) << 10

    driver.device.resize(64 * BLOCK)
    assert driver.ask(PLUG, 0, 64) == ACK
    before = resident()
    driver.memory.write(BASE, b"x" * (64 * BLOCK))
    touched = resident()
    assert touched > before - BLOCK
    assert driver.ask(UNPLUG, 0, 64) == ACK
    assert resident() < touched - 60 * BLOCK
    assert driver.ask(PLUG, 0, 1) == ACK
    assert driver.memory.read(BASE, BLOCK) == bytes(BLOCK)


@pytest.mark.parametrize("kind", [PLUG, UNPLUG, STATE])
@pytest.mark.parametrize(("address", "count"), [
    (BASE, 0), (BASE + 1, 1), (BASE + 4096, 1), (BASE - BLOCK, 1), (0, 1), (BASE + SIZE, 1), (BASE + SIZE - BLOCK, 2),
    (BASE, 65535), ((1 << 64) - BLOCK, 1), ((1 << 64) - BLOCK, 65535), (BASE + 500 * MIB, 1),
])
def test_hostile_addresses_are_errors(kind: int, address: int, count: int) -> None:
    with Driver(Mem, options=OPTIONS) as driver:
        driver.start()
        driver.device.resize(100 * MIB)
        assert driver.ask(kind, count=count, address=address) == ERROR
        assert driver.plugged == 0


def test_hostile_requests() -> None:
    with Driver(Mem, options=OPTIONS) as driver:
        driver.start()
        driver.device.resize(SIZE)
        for kind in (4, 0xFFFF):
            assert driver.ask(kind, 0, 1) == ERROR
        whole = PLUG.to_bytes(8, "little") + BASE.to_bytes(8, "little") + (1).to_bytes(8, "little")
        assert driver.request(0, out=[whole[:23]], in_=[10]).length == 0, "too short"
        assert driver.request(0, in_=[10]).length == 0
        assert driver.plugged == 0
        assert driver.request(0, out=[whole + b"and more"], in_=[4]).length == 4, "no room for all of the answer"
        assert driver.plugged == BLOCK
        assert driver.request(0, out=[whole]).length == 0
        counted = driver.machine.counters()["dev0"]
        assert (counted["requests"], counted["refused"], counted["plugged_bytes"]) == (1, 3, BLOCK)


def test_what_is_usable_grows_with_what_is_asked_for_and_shrinks_at_unplug_all() -> None:
    with Driver(Mem, options=OPTIONS) as driver:
        driver.start()
        first = driver.usable
        assert 0 < first < SIZE
        driver.device.resize(SIZE)
        assert driver.usable == SIZE
        driver.device.resize(0)
        assert driver.usable == SIZE
        assert driver.ask(UNPLUG_ALL) == ACK
        assert driver.usable == first


def test_sizes_that_cannot_be() -> None:
    with Driver(Mem, options=OPTIONS) as driver:
        for size, words in ((SIZE + BLOCK, "not 0 to"), (-BLOCK, "not 0 to"), (BLOCK // 2, "no multiple")):
            with pytest.raises(VmmError, match=words):
                driver.device.resize(size)
        assert driver.requested == 0


def test_blocks_stay_plugged_over_resets_and_pauses() -> None:
    with Driver(Mem, options={**OPTIONS, "requested_size": 4 * BLOCK}) as driver:
        for _ in range(20):
            driver.start()
            assert driver.requested == 4 * BLOCK
            if not driver.plugged:
                assert driver.ask(PLUG, 0, 4) == ACK
            driver.machine.pause()
            driver.machine.resume()
            assert driver.state(0, 4) == PLUGGED


def test_events_tell_when_the_guest_has_come_to_the_size() -> None:
    with Driver(Mem, options=OPTIONS) as driver:
        told: list[dict[str, Any]] = []
        driver.machine.tell = lambda event, **data: told.append({"event": event, **data})
        driver.start()
        driver.device.resize(2 * BLOCK)
        assert driver.ask(PLUG, 0, 1) == ACK
        driver.settle()
        assert not told
        assert driver.ask(PLUG, 1, 1) == ACK
        driver.wait_until(lambda: bool(told), "the event")
        ram = sum(size for _, size in driver.machine.plan["memory"]["regions"])
        assert told == [{"event": "memory-resized", "memory": ram + 2 * BLOCK, "memory_actual": ram + 2 * BLOCK}]
        driver.ask(UNPLUG, 0, 1)
        driver.ask(PLUG, 0, 1)
        driver.settle()
        assert len(told) == 1, "a guest in a loop makes no events"


def test_random_requests_keep_the_books() -> None:
    chance = random.Random(4)
    blocks = SIZE // BLOCK
    with Driver(Mem, options={**OPTIONS, "requested_size": SIZE}) as driver:
        driver.start()
        there = [False] * blocks
        for _ in range(400):
            first, count = chance.randrange(blocks), chance.randrange(1, 40)
            part = there[first : first + count]
            kind = chance.choice((PLUG, UNPLUG))
            fits = first + count <= blocks and not any(block == (kind == PLUG) for block in part)
            assert driver.ask(kind, first, count) == (ACK if fits else ERROR)
            if fits:
                there[first : first + count] = [kind == PLUG] * count
            assert driver.plugged == sum(there) * BLOCK
