# SPDX-License-Identifier: Apache-2.0
"""The power button, pressed from outside: a key press in the guest, by the GED or a GPIO line, which shuts it down."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vmm_testkit.arch import Arch
from vmm_testkit.guest import DebianGuest
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel

pytestmark = pytest.mark.linux_guest

#: drivers, and what /proc/interrupts calls the line
BUTTON = {"x86_64": (["button", "evdev"], "ACPI:Ged"), "aarch64": (["gpio_keys", "evdev"], "GPIO Key")}
VMM = [sys.executable, str(Path(__file__).with_name("pressing_vmm.py"))]


@pytest.fixture
def guest(kernel_of: Callable[[str], Kernel], arch: Arch) -> Iterator[DebianGuest]:
    kernel = kernel_of("standard")
    with DebianGuest(kernel, Initramfs(kernel, modules=BUTTON[arch.name][0]).build(), vmm=VMM) as guest:
        yield guest


def test_power_button_is_a_key_press_in_the_guest(guest: DebianGuest, arch: Arch) -> None:
    line = BUTTON[arch.name][1]
    guest.check("(head -c 24 /dev/input/event0 > /run/key) > /dev/null 2>&1 &")
    assert guest.check(f"awk '/{line}/ {{ print $2 }}' /proc/interrupts") == "0\n"
    os.kill(guest.pid, signal.SIGUSR1)
    guest.check("until [ -s /run/key ]; do :; done", timeout=60)
    # struct input_event: 16 bytes of time, then type EV_KEY (1), code KEY_POWER (116), value 1 in 32 bits
    assert guest.check("hexdump -s 16 -e '4/2 \"%u \"' /run/key").split() == ["1", "116", "1", "0"]
    assert guest.poweroff() == 0


def shut_down_by_the_button(guest: DebianGuest) -> None:
    """Press it, with busybox acpid in the guest, whose handler powers off."""
    guest.check("mkdir -p /etc/acpi/PWRF && printf '#!/bin/sh\\npoweroff -f\\n' > /etc/acpi/PWRF/00000080 && "
                "chmod +x /etc/acpi/PWRF/00000080")
    # A press that comes before it has opened the device is lost.
    guest.check("busybox acpid -d > /run/acpid 2>&1 & until ls -l /proc/$!/fd | grep -q /dev/input/event0; do "
                "kill -0 $! || { cat /run/acpid; exit 1; }; done")
    os.kill(guest.pid, signal.SIGUSR1)
    assert guest.wait(60) == 0


def test_power_button_shuts_the_guest_down(guest: DebianGuest) -> None:
    shut_down_by_the_button(guest)
