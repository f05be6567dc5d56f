# SPDX-License-Identifier: Apache-2.0
"""The kernel has nothing to complain about that it does not also say under QEMU on the same host."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.arch import arch_of
from vmm_testkit.guest import DebianGuest
from vmm_testkit.kernels import Kernel
from vmm_testkit.qemu import PROGRAMS

pytestmark = pytest.mark.linux_guest

WARNING = 4  # of syslog: below are errors

PROGRAM = f"qemu-system-{arch_of().name}"
MACHINES = {
    "x86_64": (["-M", "q35"], ["-M", "microvm,pic=on,pit=on,rtc=on"]),
    "aarch64": (["-M", "virt,gic-version=3"],),
}
QEMU = [PROGRAM, "-accel", "kvm", "-cpu", "host", "-m", "512", "-nodefaults", "-no-user-config",
        "-display", "none", "-serial", "stdio", "-kernel", "{kernel}", "-initrd", "{initramfs}", "-append", "{cmdline}"]


def complaints(guest: DebianGuest) -> set[str]:
    """Errors and warnings without what differs from boot to boot: times, addresses, numbers."""
    found = set()
    for line in guest.check("dmesg -r").splitlines():
        prefix = re.match(r"<(\d+)>\s*(\[[^]]*\])?\s*", line)
        if prefix is None or int(prefix[1]) % 8 > WARNING:
            continue
        text = line[prefix.end():]
        if re.match(r"Hardware name:|Code:|[A-Z0-9]{2,3}: ", text):
            continue  # the inside of a trace, whose title line counts
        if text.startswith("hrtimer: interrupt took"):
            continue  # an emulated host was slow
        found.add(re.sub(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+", "#", text).strip())
    return found


@pytest.mark.parametrize("flavour", ["cloud", "standard"])
def test_no_warning_that_qemu_does_not_give(flavour: str, kernel_of: Callable[[str], Kernel],
                                            initramfs_of: Callable[[str], Path]) -> None:
    if not shutil.which(PROGRAM):
        pytest.skip(f"needs QEMU to compare with: apt-get install {PROGRAMS[arch_of().name]}")
    kernel, initramfs = kernel_of(flavour), initramfs_of(flavour)
    known: set[str] = set()
    for machine in MACHINES[arch_of().name]:
        with DebianGuest(kernel, initramfs, argv=[*QEMU, *machine, "-smp", "2"]) as guest:
            known |= complaints(guest)
    with DebianGuest(kernel, initramfs, cpus="boot=2") as guest:
        ours = complaints(guest)
    assert sorted(ours - known) == []
