# SPDX-License-Identifier: Apache-2.0
"""A stock Debian kernel with its own PL031 driver."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from vmm_testkit.guest import DebianGuest

pytestmark = [pytest.mark.linux_guest, pytest.mark.arch("aarch64", reason="x86-64 has an MC146818")]


def test_time_and_alarm(debian_guest: Callable[..., DebianGuest]) -> None:
    guest = debian_guest()
    assert guest.check("cat /sys/class/rtc/rtc0/name").startswith("rtc-pl031")
    before = int(time.time())
    assert before <= int(guest.check("cat /sys/class/rtc/rtc0/since_epoch")) <= time.time()
    interrupts = "awk '/rtc-pl031/ { print $2 }' /proc/interrupts"
    assert guest.check(interrupts) == "0\n"
    guest.check("echo +2 > /sys/class/rtc/rtc0/wakealarm")
    guest.check("until [ -z $(cat /sys/class/rtc/rtc0/wakealarm) ]; do :; done")
    assert guest.check(interrupts) == "1\n", "it has rung"
    assert guest.poweroff() == 0


def test_it_can_be_left_out(debian_guest: Callable[..., DebianGuest]) -> None:
    guest = debian_guest("--rtc", "off")
    assert guest.check("ls /sys/class/rtc") == ""
    assert guest.poweroff() == 0
