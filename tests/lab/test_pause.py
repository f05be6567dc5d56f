# SPDX-License-Identifier: Apache-2.0
"""A Linux guest that is paused again and again: its time stands still meanwhile, and none of its watchdogs barks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import running
from vmm_testkit.guest import DebianGuest
from vmm_testkit.kernels import Kernel

pytestmark = pytest.mark.linux_guest

LENGTH, LONGEST = 0.02, 6.0  # seconds
#: what a kernel says when its time is not what it should be
COMPLAINTS = "soft lockup|hard LOCKUP|detected stall|clocksource.*(unstable|skew)|time went backwards"


def uptime(guest: DebianGuest) -> float:
    return float(guest.check("cat /proc/uptime").split()[0])


def test_pauses(kernel_of: Callable[[str], Kernel], tmp_path: Path, soak: Callable[[int, int], int]) -> None:
    with running(kernel_of("cloud"), tmp_path, cpus="boot=2") as (guest, vm):
        guest.check("echo 2 > /proc/sys/kernel/watchdog_thresh")  # a CPU that does nothing for 4 s is locked up
        guest.check("(while [ ! -e /run/enough ]; do cat /proc/uptime; done > /run/times; touch /run/written) "
                    "> /dev/null 2>&1 &")
        began, before, stood = time.monotonic(), uptime(guest), 0.0
        for number, length in enumerate([LENGTH] * soak(20, 1000) + [LONGEST]):
            vm("pause")
            since = time.monotonic()
            time.sleep(length)
            stood += time.monotonic() - since
            vm("resume")
            if number % 20 == 0:
                guest.check("true")
        passed, here = uptime(guest) - before, time.monotonic() - began
        assert 0 < passed < here - stood + 1, "time passed for the guest while it was paused"
        guest.check("touch /run/enough; until [ -e /run/written ]; do :; done")
        assert guest.run("cut -d' ' -f1 /run/times | sort -c -n").status == 0, "the guest's time went back"
        assert guest.run("sleep 1").status == 0, "its timers go on"
        assert guest.run(f"dmesg | grep -iE '{COMPLAINTS}'").output == ""
        assert guest.poweroff() == 0
