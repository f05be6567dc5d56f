# SPDX-License-Identifier: Apache-2.0
"""A Debian guest reads /dev/hwrng."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from vmm_testkit.guest import DebianGuest


@pytest.mark.linux_guest
def test_hwrng_reads_and_the_driver_comes_and_goes(debian_guest: Callable[..., DebianGuest]) -> None:
    guest = debian_guest("--rng", modules=["virtio_pci", "virtio-rng"], cpus="boot=2")
    assert "virtio" in guest.check("cat /sys/class/misc/hw_random/rng_current")
    one, two = (guest.check("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | md5sum") for _ in range(2))
    assert one != two
    assert int(guest.check("dd if=/dev/hwrng bs=4096 count=64 2>/dev/null | wc -c")) > 0
    # Not at once again: Linux 6.1 stops a thread of its own that has ended already (hwrng_unregister).
    guest.check(
        "cat /dev/hwrng >/dev/null 2>&1 & cd /sys/bus/virtio/drivers/virtio_rng; dev=$(ls -d virtio*);"
        "for i in $(seq 20); do echo $dev >unbind; echo $dev >bind;"
        "until [ $(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | wc -c) = 32 ]; do :; done; done; kill %1 2>/dev/null; true")
    assert int(guest.check("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c")) > 0
    assert guest.poweroff() == 0
