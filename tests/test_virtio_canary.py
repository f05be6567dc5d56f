# SPDX-License-Identifier: Apache-2.0
"""Host memory beside guest memory: whatever a driver asks for, it is neither read nor written by a virtio device."""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from vmmcore.machine.native import ffi, lib
from vmmcore.virtio import F_INDIRECT_DESC, F_RING_PACKED, Queue, VirtioDevice

testkit = pytest.importorskip("vmm_testkit.virtio", reason="needs the testkit: pip install vmm-testkit")
ring = pytest.importorskip("vmm_testkit.virtio_ring")

pytestmark = pytest.mark.needs_kvm

MIB, PAGE = 1 << 20, 4096
RAM = ((0, 16 * MIB), (256 * MIB, 4 * MIB))
CANARY = b"host memory, nobody's business! "
NEXT, WRITE, INDIRECT, MAP_FIXED = 1, 2, 4, 0x10


class Echo(VirtioDevice):
    virtio_id = 63
    queue_sizes = (64,)

    def configure(self) -> None:
        self.seen: list[bytes] = []

    def handle(self, queue: Queue) -> None:
        for chain in queue:
            self.seen.append(chain.read())
            chain.write(b"\xee" * chain.room)


class Canary:
    """Pages of ours right behind each piece of guest memory (where the core reserves some address space)."""

    def __init__(self, driver: testkit.VirtioDriver) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self.pages = []
        for gpa, size in driver.memory.regions:
            end = int(ffi.cast("uintptr_t", lib.vmm_mem(driver.machine.vm, gpa, size))) + size
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
            assert libc.mmap(end, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == end
            page = (ctypes.c_char * PAGE).from_address(end)
            page.raw = CANARY * (PAGE // len(CANARY))
            self.pages.append(page)

    def check(self) -> None:
        for page in self.pages:
            assert page.raw == CANARY * (PAGE // len(CANARY))


def reaches() -> Iterator[tuple[int, int]]:
    """(address, length) of buffers that begin in guest memory or at its end, and go on behind it."""
    for (gpa, size), back, more in itertools.product(RAM, (0, 1, 16, 512, PAGE), (1, 16, 512, PAGE, MIB)):
        if back or more:
            yield gpa + size - back, back + more


def attempt(driver: testkit.VirtioDriver, without: int, address: int, length: int, write: bool, table: bool) -> None:
    """One request with such a buffer; the device must want a reset."""
    driver.start(without=without)
    queue = driver.queues[0]
    flags = WRITE if write else 0
    if table:
        at = driver.alloc(16, 16)
        entry = [(address, length, write)]
        driver.memory.write(at, queue.table(entry, queue.packed))
        address, length, flags = at, 16, INDIRECT
    if queue.packed:
        queue.write_desc(0, address, length, 0, flags | queue.available())
    else:
        queue.write_desc(0, address, length, flags)
        queue.make_available(0)
    driver.kick(0, force=True)
    driver.wait_until(lambda: bool(driver.status & testkit.NEEDS_RESET), "NEEDS_RESET")


@pytest.mark.parametrize("table", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_buffers_that_reach_beyond(packed: bool, table: bool) -> None:
    without = (0 if packed else F_RING_PACKED) | (0 if table else F_INDIRECT_DESC)
    with testkit.VirtioDriver(Echo, options={"packed": packed}, ram=RAM) as driver:
        canary = Canary(driver)
        for address, length in reaches():
            for write in (False, True):
                attempt(driver, without, address, length, write, table)
        assert driver.device.seen == []
        canary.check()
        driver.start(without=without)
        assert driver.request(0, [b"a"], [1]).data == b"\xee"


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_rings_that_reach_beyond(packed: bool) -> None:
    kind = ring.PackedQueue if packed else ring.SplitQueue
    with testkit.VirtioDriver(Echo, options={"packed": packed}, ram=RAM) as driver:
        canary = Canary(driver)
        for area, (gpa, size), back in itertools.product(range(3), RAM, (0, 16, 32)):
            length = kind.area_sizes(64)[area]
            if back >= length:
                continue
            driver.reset()
            driver.negotiate()
            driver.setup_queue(0, enable=False)
            driver.set_common(("queue_desc", "queue_driver", "queue_device")[area], gpa + size - back)
            driver.set_common("queue_enable", 1)
            with pytest.raises(testkit.VirtioError, match="NEEDS_RESET"):
                driver.driver_ok()
        canary.check()


def plugin(name: str) -> None:
    if find_spec(f"vmm_virtio_{name}") is None:
        pytest.skip(f"vmm-virtio-{name} is not installed: pip install ./plugins/virtio-{name}")


def test_random_bytes_stay_in_guest_memory() -> None:
    plugin("rng")
    with testkit.VirtioDriver.flag("--rng", ram=RAM) as driver:
        canary = Canary(driver)
        for address, length in reaches():
            attempt(driver, F_INDIRECT_DESC, address, length, True, False)
        canary.check()


def test_the_disk_gets_guest_memory_only(tmp_path: Path) -> None:
    plugin("blk")
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(MIB))
    with testkit.VirtioDriver.flag("--disk", f"path={image}", ram=RAM) as driver:
        canary = Canary(driver)
        for (gpa, size), back, write in itertools.product(RAM, (1, 16, 256, 511), (False, True)):
            driver.start(queues=[0])
            at = driver.alloc(32)
            driver.memory.write(at, (0 if write else 1).to_bytes(4, "little") + bytes(12))
            queue = driver.queues[0]
            queue.write_desc(0, at, 16, NEXT, 1)
            queue.write_desc(1, gpa + size - back, 512, NEXT | (WRITE if write else 0), 2)
            queue.write_desc(2, at + 16, 1, WRITE)
            queue.make_available(0)
            driver.kick(0, force=True)
            driver.wait_until(lambda: bool(driver.status & testkit.NEEDS_RESET), "NEEDS_RESET")
        canary.check()
    assert image.read_bytes() == bytes(MIB)
