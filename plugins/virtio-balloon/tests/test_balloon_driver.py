# SPDX-License-Identifier: Apache-2.0
"""The device in a machine without a CPU, with a driver in Python."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from vmm_testkit.virtio import VirtioDriver
from vmmcore.errors import VmmError

pytestmark = pytest.mark.needs_kvm

PAGE, MIB = 4096, 1 << 20
REPORTING = 1 << 5


def resident() -> int:
    """Bytes of this process, which has the guest's memory, in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pages(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


@pytest.mark.parametrize("options", ["", "packed=on", "iommu=on"])
def test_memory_goes_to_the_host_and_comes_back(options: str) -> None:
    with VirtioDriver.flag("--balloon", options) as driver:
        driver.start()
        top = 4 << 30  # the second piece of RAM, 16 MiB
        driver.memory.write(top, b"\xa5" * (16 * MIB))
        before = resident()
        for first in range(top // PAGE, (top + 16 * MIB) // PAGE, 256):
            assert driver.request(0, [pages(*range(first, first + 256))]).length == 0
        assert resident() < before - 15 * MIB
        assert driver.memory.read(top + 5, 1) == b"\0"
        assert driver.request(1, [pages(top // PAGE)]).length == 0
        counters = driver.machine.counters()["balloon0"]
        assert counters["inflated_bytes"] == 16 * MIB and counters["deflated_bytes"] == PAGE


def test_pages_that_are_no_ram_are_refused() -> None:
    with VirtioDriver.flag("--balloon") as driver:
        driver.start()
        driver.request(0, [pages(0xE800_0000 // PAGE, 0xFFFF_FFFF, (64 * MIB) // PAGE)])
        counters = driver.machine.counters()["balloon0"]
        assert counters["refused_bytes"] == 3 * PAGE and counters["inflated_bytes"] == 0
        assert driver.request(0, [b""]).length == 0


@pytest.mark.parametrize(("without", "queue"), [(0, 3), (0, 4), (1 << 1, 2)])
def test_reported_pages_go_to_the_host(without: int, queue: int) -> None:
    """Queue 4 as the specification says, or without gaps, as Linux numbers them."""
    with VirtioDriver.flag("--balloon", "free_page_reporting=on") as driver:
        assert driver.start(without=without) & REPORTING
        driver.request(queue, in_=[2 * MIB])
        assert driver.machine.counters()["balloon0"]["reported_bytes"] >= 2 * MIB - PAGE


def test_size_reaches_the_driver_and_what_it_did_is_told() -> None:
    with VirtioDriver.flag("--balloon", "size=8M,deflate_on_oom=on") as driver:
        features = driver.start()
        assert features & 1 << 2 and not features & REPORTING
        assert driver.config_read(0, 4) == 8 * MIB // PAGE
        driver.config_write(4, 4, 100)
        balloon = driver.device
        assert balloon.memory_delta == -100 * PAGE
        driver.config_write(4, 4, 0xFFFFFFFF)
        assert balloon.memory_delta == -sum(size for _, size in balloon.machine.memory.regions), "all that it has"
        driver.config_write(4, 4, 100)
        balloon.resize(16 * MIB + 1)
        assert driver.config_read(0, 4) == 16 * MIB // PAGE
        assert balloon.statistics() == {"target": 16 * MIB, "actual": 100 * PAGE}
        for wrong in (-1, 81 * MIB, 1 << 64):
            with pytest.raises(VmmError, match="balloon"):
                balloon.resize(wrong)
        driver.reset()
        assert driver.config_read(4, 4) == 0  # a driver that starts anew has given up nothing


def test_statistics() -> None:
    with VirtioDriver.flag("--balloon") as driver:
        driver.start()
        token = driver.submit(2, [struct.pack("<HQHQHQ", 4, 123, 3, 77, 500, 1)])
        driver.wait_until(lambda: driver.device.statistics().get("free_memory") == 123, "statistics")
        assert driver.machine.counters()["balloon0"]["minor_faults"] == 77
        driver.wait(2, token)  # it was asked for newer ones


def test_two_hundred_resets_with_requests_in_the_queues() -> None:
    with VirtioDriver.flag("--balloon", "free_page_reporting=on") as driver:
        driver.start()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            driver.start()
            for queue in range(3):
                driver.submit(queue, [pages(1000, 1001)])
            driver.submit(4, in_=[PAGE])
        driver.machine.pause()
        driver.machine.resume()
        assert driver.request(0, [pages(1000)]).length == 0
        assert len(os.listdir("/proc/self/fd")) == before
