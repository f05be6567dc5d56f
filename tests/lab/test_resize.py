# SPDX-License-Identifier: Apache-2.0
"""A stock Debian kernel gets CPUs and memory while it runs, gives them back, and has them after a reboot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from asking import GIB, MIB, running
from vmm_testkit.arch import Arch
from vmm_testkit.guest import DebianGuest
from vmm_testkit.kernels import Kernel

pytestmark = pytest.mark.linux_guest

ROOM = 160 * MIB  # what the kernel keeps for itself: its image, page structures, bounce buffers
#: what a distribution's udev rule does
ONLINE = "for f in /sys/devices/system/cpu/cpu*/online; do [ $(cat $f) = 1 ] || echo 1 > $f || exit 1; done"


def total(guest: DebianGuest) -> int:
    """Bytes of RAM that the guest's kernel manages."""
    return int(guest.check("awk '/MemTotal/ { print $2 }' /proc/meminfo")) << 10


def wait_for(guest: DebianGuest, low: int, high: int) -> None:
    """Wait until the kernel manages so much."""
    words = f"t=$(awk '/MemTotal/ {{ print $2 }}' /proc/meminfo); [ $t -gt {low >> 10} ] && [ $t -le {high >> 10} ]"
    guest.check(f"until {words}; do sleep 0.2; done", timeout=240)


def test_cpus(kernel_of: Callable[[str], Kernel], arch: Arch, tmp_path: Path) -> None:
    if arch.name != "x86_64":
        pytest.skip("the number of an Arm VM's CPUs is fixed")
    with running(kernel_of("cloud"), tmp_path, cpus="boot=1,max=4") as (guest, ask):
        assert guest.check("nproc") == "1\n"
        ask("resize", cpus=4)
        guest.check("until [ -e /sys/devices/system/cpu/cpu3/online ]; do sleep 0.1; done", timeout=240)
        guest.check(ONLINE, timeout=240)
        assert guest.check("nproc") == "4\n"
        assert ask("info")["vcpus"] == 4
        ask("resize", cpus=2)
        ask.until(vcpus=2)
        assert guest.check("nproc") == "2\n"
        assert guest.run("ls -d /sys/devices/system/cpu/cpu[23]").status != 0
        ask("resize", cpus=3)  # one that was there before
        guest.check("until [ -e /sys/devices/system/cpu/cpu2/online ]; do sleep 0.1; done", timeout=240)
        guest.check(ONLINE, timeout=240)
        assert guest.check("nproc") == "3\n"
        assert "WARNING" not in guest.check("dmesg")
        ask("reboot")
        guest.wait_ready(240)
        assert guest.check("nproc") == "3\n"
        assert guest.poweroff() == 0


def test_memory_by_acpi(kernel_of: Callable[[str], Kernel], arch: Arch, tmp_path: Path) -> None:
    if arch.name != "x86_64":
        pytest.skip("a kernel without firmware finds no ACPI on AArch64")
    memory = "size=512M,hotplug_size=2G"
    with running(kernel_of("cloud"), tmp_path, memory=memory, cmdline="memhp_default_state=online") as (guest, ask):
        assert total(guest) <= 512 * MIB
        for size in (GIB, 2 * GIB):
            before = total(guest)
            ask("resize", memory=size)
            wait_for(guest, before + size // 2 - ROOM, size)
            assert ask("info")["memory"] == ask("info")["memory_actual"] == size
        guest.check("mount -t tmpfs -o size=1200M tmpfs /mnt", timeout=300)
        guest.check("dd if=/dev/zero of=/mnt/all bs=1M count=1100 2>/dev/null", timeout=300)
        ask("reboot")
        guest.wait_ready(240)
        assert 2 * GIB - ROOM < total(guest) <= 2 * GIB
        ask("resize", memory=GIB)
        assert ask("info")["memory"] == 2 * GIB
        ask("reboot")
        guest.wait_ready(240)
        assert GIB - ROOM < total(guest) <= GIB == ask("info")["memory"]
        assert guest.poweroff() == 0


def test_memory_by_virtio_mem(kernel_of: Callable[[str], Kernel], tmp_path: Path) -> None:
    with running(kernel_of("standard"), tmp_path, "virtio_pci", "virtio_mem",
                 memory="size=512M,hotplug_method=virtio-mem,hotplug_size=2G",
                 cmdline="memhp_default_state=online_movable") as (guest, ask):
        small = total(guest)
        ask("resize", memory=2 * GIB)
        ask.until(memory=2 * GIB, memory_actual=2 * GIB)
        wait_for(guest, 2 * GIB - ROOM, 2 * GIB)
        ask("reboot")
        guest.wait_ready(240)
        ask.until(memory=2 * GIB)
        ask("resize", memory=512 * MIB)
        ask.until(memory=512 * MIB)
        wait_for(guest, 0, small + 16 * MIB)
        assert guest.poweroff() == 0
