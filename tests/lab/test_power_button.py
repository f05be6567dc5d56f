# SPDX-License-Identifier: Apache-2.0
"""The power button, pressed from outside, reaches the guest's button driver: through the GED, or a GPIO line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
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


def test_power_button_is_a_key_press_in_the_guest(kernel_of: Callable[[str], Kernel], arch: Arch) -> None:
    kernel = kernel_of("standard")
    modules, line = BUTTON[arch.name]
    initramfs = Initramfs(kernel, modules=modules).build()
    with DebianGuest(kernel, initramfs, vmm=VMM) as guest:
        guest.check("(head -c 24 /dev/input/event0 > /run/key) > /dev/null 2>&1 &")
        assert guest.check(f"awk '/{line}/ {{ print $2 }}' /proc/interrupts") == "0\n"
        os.kill(guest.pid, signal.SIGUSR1)
        guest.check("until [ -s /run/key ]; do :; done", timeout=60)
        # struct input_event: 16 bytes of time, then type EV_KEY (1), code KEY_POWER (116), value 1 in 32 bits
        assert guest.check("hexdump -s 16 -e '4/2 \"%u \"' /run/key").split() == ["1", "116", "1", "0"]
        assert guest.poweroff() == 0
