# SPDX-License-Identifier: Apache-2.0
"""Linux on an Arm machine with ACPI: Debian's EDK2 starts it with the tables that fw_cfg hands over."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_dmesg import MACHINES, QEMU, complaints
from test_power_button import VMM, shut_down_by_the_button
from vmm_testkit.firmware import CODE, MISSING, WORD, with_acpi
from vmm_testkit.guest import DebianGuest
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel
from vmm_testkit.qemu import PROGRAMS

BIOS = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")  # of the same package, in the form for QEMU's -bios
MODULES = ["button", "evdev", "virtio_pci", "virtio_blk"]

pytestmark = [
    pytest.mark.linux_guest,
    pytest.mark.arch("aarch64", reason="the firmware is for AArch64; x86-64 machines have ACPI tables without any"),
    pytest.mark.skipif(not CODE.exists(), reason=MISSING),
]


@pytest.fixture(params=["cloud", "standard"])
def guest(request: pytest.FixtureRequest, kernel_of: Callable[[str], Kernel],
          image: Callable[..., Path]) -> Iterator[DebianGuest]:
    kernel = kernel_of(request.param)
    with DebianGuest(kernel, Initramfs(kernel, modules=MODULES).build(), vmm=VMM, cpus="boot=2",
                     **with_acpi(kernel.arch, args=["--disk", str(image(8))])) as guest:  # fmt: skip
        yield guest


def test_no_warning_that_qemu_does_not_give(kernel_of: Callable[[str], Kernel],
                                            initramfs_of: Callable[[str], Path]) -> None:
    if not shutil.which(QEMU[0]):
        pytest.skip(f"needs QEMU to compare with: apt-get install {PROGRAMS['aarch64']}")
    kernel, initramfs = kernel_of("standard"), initramfs_of("standard")
    qemu = [*QEMU, *MACHINES["aarch64"][0], "-smp", "2", "-bios", str(BIOS)]
    with DebianGuest(kernel, initramfs, cmdline=WORD, argv=qemu, boot_timeout=300) as guest:
        known = complaints(guest)
    with DebianGuest(kernel, initramfs, cpus="boot=2", **with_acpi(kernel.arch)) as guest:
        assert sorted(complaints(guest) - known) == []


def test_debian_runs_on_our_acpi_tables(guest: DebianGuest) -> None:
    tables = guest.check("ls /sys/firmware/acpi/tables").split()
    assert {"APIC", "DSDT", "FACP", "GTDT", "IORT", "MCFG", "PPTT", "SPCR"} <= set(tables)
    assert guest.check("nproc") == "2\n"
    assert guest.check("until [ -b /dev/vda ]; do :; done; cat /dev/vda | wc -c").strip() == str(8 << 20)
    interrupts = guest.check("cat /proc/interrupts")
    assert "ITS-MSI" in interrupts
    assert "ACPI:Ged" in interrupts

    guest.reboot()
    assert guest.check("nproc") == "2\n"

    shut_down_by_the_button(guest)  # which is the GED's here
