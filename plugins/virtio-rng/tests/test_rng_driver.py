# SPDX-License-Identifier: Apache-2.0
"""The device in a machine without a CPU, with a driver in Python."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from vmm_testkit.virtio import NEEDS_RESET, VirtioDriver

pytestmark = pytest.mark.needs_kvm


@pytest.mark.parametrize("options", ["", "packed=on", "iommu=on"])
def test_bytes_of_the_source_fill_all_pieces(options: str) -> None:
    with VirtioDriver.flag("--rng", options) as driver:
        driver.start()
        one, two = (driver.request(0, in_=[10, 200, 1]) for _ in range(2))
        assert one.length == two.length == 211
        assert one.data != two.data and one.data[:200].count(0) < 20
        assert driver.request(0, out=[b"nothing to fill"]).length == 0
        assert driver.request(0, in_=[64], indirect=True).length == 64
        assert driver.machine.counters()["rng0"]["bytes"] == 2 * 211 + 64


def test_file_ends_with_a_device_that_asks_for_a_reset(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"0123456789")
    with VirtioDriver.flag("--rng", f"src={tmp_path}/data") as driver:
        driver.start()
        assert driver.request(0, in_=[4]).data == b"0123"
        assert driver.request(0, in_=[100]).data == b"456789"
        driver.submit(0, in_=[4])
        driver.wait_until(lambda: bool(driver.status & NEEDS_RESET), "NEEDS_RESET")
        driver.start()
        driver.submit(0, in_=[4])
        driver.wait_until(lambda: bool(driver.status & NEEDS_RESET), "NEEDS_RESET")


def test_request_waits_for_a_slow_source_and_over_a_pause(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with VirtioDriver.flag("--rng", f"src={tmp_path}/fifo") as driver:
        driver.start()
        token = driver.submit(0, in_=[8])
        driver.machine.pause()
        driver.machine.resume()
        writer = os.open(tmp_path / "fifo", os.O_WRONLY)
        os.write(writer, b"slowly..")
        assert driver.wait(0, token).data == b"slowly.."
        os.close(writer)


def test_limited_requests_arrive_all() -> None:
    with VirtioDriver.flag("--rng", "ops_size=4,ops_refill_time=20,bw_size=1K,bw_refill_time=5") as driver:
        driver.start()
        tokens = [driver.submit(0, in_=[100]) for _ in range(20)]
        assert [driver.wait(0, token).length for token in tokens] == [100] * 20
        assert driver.machine.counters()["rng0"]["throttled"] > 0


@pytest.mark.parametrize("options", ["", "packed=on"])
def test_two_hundred_resets_with_requests_in_the_queue(options: str) -> None:
    with VirtioDriver.flag("--rng", options) as driver:
        for _ in range(200):
            driver.start()
            for _ in range(16):
                driver.submit(0, in_=[4096])
        assert driver.request(0, in_=[32]).length == 32
