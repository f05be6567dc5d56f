# SPDX-License-Identifier: Apache-2.0
"""The virtio transport, driven by Linux: a device in a Python file, every kind of ring and interrupt."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from vmm_testkit.arch import Arch
from vmm_testkit.guest import DebianGuest
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel

pytestmark = pytest.mark.linux_guest

DEVICE = str(Path(__file__).with_name("py_entropy.py"))
INDIRECT_AND_EVENT_IDX = hex(1 << 28 | 1 << 29)
#: what is offered, words for the kernel, what /proc/interrupts must show (test_virtio_fallbacks.py has the rest)
CASES = {
    "split-plain": (f",without={INDIRECT_AND_EVENT_IDX}", "", "msi"),
    "packed-plain": (f",packed=on,without={INDIRECT_AND_EVENT_IDX}", "pci=nomsi", "intx"),
    "packed": (",packed=on", "", "msi"),
}


@pytest.fixture(scope="module")
def initramfs(kernel_of: Callable[[str], Kernel]) -> Path:
    return Initramfs(kernel_of("cloud"), modules=["virtio_pci", "virtio-rng"]).build()


@pytest.mark.parametrize("case", CASES)
def test_linux_drives_the_rings(case: str, kernel_of: Callable[[str], Kernel], initramfs: Path, arch: Arch) -> None:
    options, words, interrupts = CASES[case]
    with DebianGuest(kernel_of("cloud"), initramfs, args=["--plugin", DEVICE + options],
                     cmdline=words) as guest:
        assert guest.check("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
        # The driver asks for 64 bytes at a time and the device counts: runs of consecutive bytes.
        dump = guest.check("dd if=/dev/hwrng bs=64 count=40 2>/dev/null | hexdump -v -e '1/1 \"%u \"'")
        numbers = [int(word) for word in dump.split()]
        assert len(numbers) == 2560
        assert sum((b - a) % 256 == 1 for a, b in pairwise(numbers)) > 2400
        found = guest.check("grep virtio /proc/interrupts")
        assert getattr(arch, interrupts) in found
        features = guest.check("cat /sys/bus/virtio/devices/virtio0/features").strip()
        assert features[34] == ("1" if "packed=on" in options else "0")
        # Any number of times, and nothing is left over from the activation before.
        guest.check("cd /sys/bus/virtio/drivers/virtio_rng && for i in $(seq 20); do echo virtio0 > unbind; "
                    "echo virtio0 > bind; dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c | grep -q 16 || exit 1; "
                    "done")
        assert guest.poweroff() == 0


def test_shared_memory_is_the_same_memory(kernel_of: Callable[[str], Kernel], initramfs: Path) -> None:
    """Regions 1 and 7 lie behind each other in BAR 4; the device gives 16 bytes of region 7 and counts its first up."""
    device = str(Path(__file__).with_name("py_shared.py"))
    with DebianGuest(kernel_of("cloud"), initramfs, args=["--plugin", device]) as guest:
        base = int(guest.check("sed -n 5p /sys/bus/pci/devices/*:01.0/resource").split()[0], 16) + 8192
        guest.check(f"busybox devmem {base:#x} 32 0x44434241")
        assert "42 43 44 0" in guest.check("dd if=/dev/hwrng bs=16 count=1 2>/dev/null | hexdump -v -e '1/1 \"%x \"'")
        assert int(guest.check(f"busybox devmem {base:#x} 8"), 16) > 0x41
        assert int(guest.check(f"busybox devmem {base - 8192:#x} 32"), 16) == 0
        assert guest.poweroff() == 0
