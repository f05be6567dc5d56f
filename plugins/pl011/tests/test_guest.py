# SPDX-License-Identifier: Apache-2.0
"""Stock Debian kernels with their own PL011 driver."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from vmm_testkit.guest import DebianGuest

pytestmark = [pytest.mark.linux_guest, pytest.mark.arch("aarch64", reason="x86-64 has a 16550A")]


def test_earlycon_prints_from_the_first_lines_on(debian_guest: Callable[..., DebianGuest]) -> None:
    guest = debian_guest(cmdline="earlycon loglevel=8")
    assert re.match(r"\[    0\.000000\] Booting Linux on physical CPU", guest.console)
    assert "earlycon: pl11 at MMIO 0x0000000009000000" in guest.console
    assert guest.poweroff() == 0


def test_much_goes_both_ways_with_interrupts(debian_guest: Callable[..., DebianGuest]) -> None:
    guest = debian_guest()
    assert "ttyAMA0" in guest.check("cat /sys/class/tty/console/active")
    assert "PL011 rev3" in guest.check("dmesg | grep ttyAMA0")
    text = "0123456789abcdef" * 400
    assert guest.check(f"echo {text}") == text + "\n"
    assert guest.check("head -c 300000 /dev/zero | tr '\\0' x") == "x" * 300000
    count = guest.check("awk '/uart-pl011/ { print $2 }' /proc/interrupts")
    assert int(count) > 0
    assert guest.poweroff() == 0
