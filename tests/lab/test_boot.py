# SPDX-License-Identifier: Apache-2.0
"""Stock Debian kernels boot, see the machine they were promised, and end the way they were told to."""

from __future__ import annotations

import gzip
import os
import re
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.arch import arch_of
from vmm_testkit.guest import DebianGuest
from vmm_testkit.kernels import Kernel

pytestmark = pytest.mark.linux_guest

MIB = 1 << 20
# On x86-64 every pair of (image, CPUs), (image, memory) and (CPUs, memory); on both each flavour with each image, each
# number of CPUs and each size. 3584 MiB reaches beyond the hole.
SHAPES = {
    "x86_64": [
        ("cloud", "bzImage", 1, 128),
        ("standard", "bzImage", 2, 1024),
        ("cloud", "bzImage", 4, 3584),
        ("cloud", "vmlinux", 1, 1024),
        ("cloud", "vmlinux", 2, 3584),
        ("standard", "vmlinux", 4, 128),
        ("standard", "as-is", 1, 3584),
        ("cloud", "as-is", 2, 128),
        ("cloud", "as-is", 4, 1024),
    ],
    "aarch64": [
        ("cloud", "Image", 1, 256),
        ("standard", "Image", 4, 3072),
        ("standard", "gzip", 1, 1024),
        ("cloud", "gzip", 2, 3072),
        ("standard", "zboot", 2, 256),
        ("cloud", "zboot", 4, 1024),
    ],
}[arch_of().name]
#: where the hole below 4 GiB begins, and RAM there
BELOW_4G = {"x86_64": (3 << 30, 3072), "aarch64": (0xFC00_0000, 3008)}[arch_of().name]


def booted(kernel: Kernel, image: str, initramfs: Path, **options: object) -> DebianGuest:
    """A guest of the kernel's own image, or on x86-64 one that unpacks itself ("as-is") or is a bare ELF file
    ("vmlinux"); on AArch64 one compressed with "gzip", or that in an EFI program that unpacks it ("zboot")."""
    args = list(options.pop("args", ()))  # type: ignore[call-overload]
    if image == "as-is":
        args += ["--plugin", "boot-linux,extract=off"]
    path = kernel.vmlinux() if image == "vmlinux" else kernel.vmlinuz
    if image in ("gzip", "zboot"):
        path = Path(tempfile.gettempdir()) / f"{path.name}.{image}"
        if not path.exists():
            packed = gzip.compress(kernel.vmlinuz.read_bytes(), 1)
            path.write_bytes(packed if image == "gzip" else zboot(packed))
    options.setdefault("cmdline", "reboot=a")
    return DebianGuest(path, initramfs, args=args, **options)  # type: ignore[arg-type]


def zboot(packed: bytes) -> bytes:
    """An EFI zboot image of a gzip-compressed Image (Linux, drivers/firmware/efi/libstub/zboot-header.S)."""
    head = struct.pack("<4s4sII8x32sII", b"MZ", b"zimg", 0x200, len(packed), b"gzip", 0x818223CD, 0x40)
    return (head + struct.pack("<4sH", b"PE", 0xAA64)).ljust(0x200, b"\0") + packed


@pytest.mark.parametrize(("flavour", "image", "cpus", "mib"), SHAPES)
def test_boots_and_sees_its_machine(flavour: str, image: str, cpus: int, mib: int,
                                    kernel_of: Callable[[str], Kernel],
                                    initramfs_of: Callable[[str], Path]) -> None:
    with booted(kernel_of(flavour), image, initramfs_of(flavour), cpus=f"boot={cpus}",
                memory=f"size={mib}M", cmdline="reboot=a word=one,two") as guest:
        seen = guest.check("uname -r; nproc; grep -c ^processor /proc/cpuinfo; grep MemTotal /proc/meminfo; "
                           "cat /proc/cmdline; grep 'System RAM' /proc/iomem; lspci -n").splitlines()
        assert seen[0] == kernel_of(flavour).version
        assert seen[1] == seen[2] == str(cpus)
        total = int(seen[3].split()[1]) * 1024
        assert 0.7 * mib * MIB - 40 * MIB < total < mib * MIB
        assert "word=one,two" in seen[4]
        ram = [tuple(int(x, 16) for x in m.groups())
               for m in (re.match(r"\s*([0-9a-f]+)-([0-9a-f]+) : System RAM", line) for line in seen) if m]
        above = [r for r in ram if r[0] >= 1 << 32]
        hole, below = BELOW_4G
        assert bool(above) == (mib > below)
        assert sum(end + 1 - start for start, end in above) == max(0, mib - below) * MIB
        assert all(end < hole for start, end in ram if start < 1 << 32)
        assert any(line.startswith("00:00.0 0600: 8086:0d57") for line in seen)
        assert guest.poweroff() == 0, guest.stderr


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_reboot_starts_again_in_the_same_process(kernel_of: Callable[[str], Kernel],
                                                 initramfs_of: Callable[[str], Path]) -> None:
    with booted(kernel_of("cloud"), "image", initramfs_of("cloud"), cpus="boot=2") as guest:
        pid, files = guest.pid, open_files(guest.pid)
        for boot in range(2, 5):
            guest.check("touch /mark")
            guest.reboot()
            assert guest.boots == boot
            assert guest.run("test -e /mark").status != 0, "memory outlived the reboot"
            assert (guest.pid, open_files(guest.pid)) == (pid, files)
        assert guest.check("nproc") == "2\n"
        assert guest.poweroff() == 0


@pytest.mark.arch("x86_64", reason="it alone has a keyboard controller")
def test_keyboard_controller_reset(kernel_of: Callable[[str], Kernel], initramfs_of: Callable[[str], Path]) -> None:
    with booted(kernel_of("cloud"), "image", initramfs_of("cloud"), cmdline="reboot=k") as guest:
        guest.reboot()
        assert guest.boots == 2


@pytest.mark.arch("x86_64", reason="no other processor shuts itself down")
def test_triple_fault_has_its_own_exit_code(kernel_of: Callable[[str], Kernel],
                                            initramfs_of: Callable[[str], Path]) -> None:
    with booted(kernel_of("cloud"), "image", initramfs_of("cloud"), cmdline="reboot=t") as guest:
        guest.begin("reboot -f")
        status = guest.wait(30)
        assert status == 7
        assert "triple fault" in guest.stderr


@pytest.mark.arch("x86_64", reason="Debian's arm64 kernels have no driver for pvpanic")
def test_panic_has_its_own_exit_code(kernel_of: Callable[[str], Kernel], initramfs_of: Callable[[str], Path]) -> None:
    with booted(kernel_of("cloud"), "image", initramfs_of("cloud"), args=["--pvpanic", "on"]) as guest:
        assert "1b36:0011" in guest.check("lspci -n")
        guest.begin("echo c > /proc/sysrq-trigger")
        status = guest.wait(30)
        assert status == 5
        assert "panicked" in guest.stderr


def test_panic_without_pvpanic_is_what_the_kernel_makes_of_it(
    kernel_of: Callable[[str], Kernel], initramfs_of: Callable[[str], Path]
) -> None:
    with booted(kernel_of("cloud"), "image", initramfs_of("cloud"), cmdline="reboot=a panic=-1") as guest:
        guest.begin("echo c > /proc/sysrq-trigger")
        guest.expect("Kernel panic - not syncing: sysrq triggered crash")
        guest.wait_ready()
        assert guest.poweroff() == 0
