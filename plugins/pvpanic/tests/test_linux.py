# SPDX-License-Identifier: Apache-2.0
"""A stock Debian kernel with its own pvpanic driver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.guest import DebianGuest, GuestDied
from vmmcore.errors import ExitCode


@pytest.mark.arch("x86_64", reason="Debian's arm64 kernels have no driver for pvpanic")
@pytest.mark.linux_guest
def test_panic_of_a_stock_kernel(debian_guest: Callable[..., DebianGuest],
                                 initramfs_factory: Callable[..., Path]) -> None:
    initramfs = initramfs_factory(modules=["pvpanic-pci"])
    guest = debian_guest(initramfs=initramfs, args=["--pvpanic", "on"])
    assert "0000:00:01.0" in guest.check("ls /sys/bus/pci/drivers/pvpanic-pci")
    with pytest.raises(GuestDied):
        guest.run("echo c > /proc/sysrq-trigger")
    assert guest.wait() == ExitCode.PANIC
