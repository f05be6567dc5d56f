# SPDX-License-Identifier: Apache-2.0
"""The device in a machine without a CPU, with a driver in Python."""

from __future__ import annotations

import os
import time

import pytest
from vmm_testkit.virtio import VirtioDriver

pytestmark = pytest.mark.needs_kvm

RESET = 2  # VMM_EVENT_RESET


def was_reset(driver: VirtioDriver, wait: float) -> bool:
    """Whether the VM is reset within `wait` s."""
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        while event := driver.machine.next_event():
            if event[0] == RESET:
                return True
        time.sleep(0.01)
    return False


def test_pings_keep_the_vm_alive_and_their_end_resets_it() -> None:
    with VirtioDriver.flag("--watchdog", "timeout=1") as driver:
        assert driver.start() & ~(1 << 32 | 1 << 28 | 1 << 29 | 1 << 40) == 0  # no features of its own
        assert not was_reset(driver, 1.2)  # not before the first ping
        for _ in range(3):
            reply = driver.request(0, in_=[1])
            assert (reply.length, reply.data) == (1, b"\1")
            assert not was_reset(driver, 0.5)
        assert was_reset(driver, 10)
        assert driver.machine.counters()["watchdog0"]["pings"] == 3
        assert driver.machine.counters()["watchdog0"]["resets"] == 1


def test_a_paused_vm_and_a_driver_that_is_gone_have_time() -> None:
    with VirtioDriver.flag("--watchdog", "timeout=1") as driver:
        driver.start()
        driver.request(0, in_=[1])
        driver.machine.pause()
        assert not was_reset(driver, 1.5)
        driver.machine.resume()
        driver.request(0, in_=[1])
        driver.reset()
        assert not was_reset(driver, 1.5)
        driver.start()
        driver.request(0, in_=[1])
        assert was_reset(driver, 10)


def test_two_hundred_resets() -> None:
    with VirtioDriver.flag("--watchdog", "packed=on") as driver:
        driver.start()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            driver.start()
            driver.submit(0, in_=[1])
        assert driver.request(0, [b"x"]).length == 0
        assert len(os.listdir("/proc/self/fd")) == before
