# SPDX-License-Identifier: Apache-2.0
"""A stock Debian kernel gets CPUs and memory while it runs, gives them back, and has them after a reboot.

On AArch64 the guest has ACPI by its firmware.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from asking import GIB, MIB, Asked, healthy, holds, resident, running, wait
from vmm_testkit.arch import NEXT_SUITE, Arch
from vmm_testkit.guest import DebianGuest
from vmm_testkit.kernels import Kernel, KernelError

pytestmark = pytest.mark.linux_guest

ROOM = 160 * MIB  # what the kernel keeps for itself: its image, page structures, bounce buffers
#: what a distribution's udev rule does
ONLINE = "for f in /sys/devices/system/cpu/cpu*/online; do [ $(cat $f) = 1 ] || echo 1 > $f || exit 1; done"
NODES = "/sys/devices/system/node"


def total(guest: DebianGuest, node: int | None = None) -> int:
    """Bytes of RAM that the guest's kernel manages, in all or of a node."""
    file = "/proc/meminfo" if node is None else f"{NODES}/node{node}/meminfo"
    return int(guest.check(f"sed -n 's/.*MemTotal: *\\([0-9]*\\) kB/\\1/p' {file}")) << 10


def wait_for(guest: DebianGuest, low: int, high: int) -> None:
    """Wait until the kernel manages so much."""
    words = f"t=$(awk '/MemTotal/ {{ print $2 }}' /proc/meminfo); [ $t -gt {low >> 10} ] && [ $t -le {high >> 10} ]"
    guest.check(f"until {words}; do sleep 0.2; done", timeout=240)


def fill(guest: DebianGuest, mib: int) -> None:
    """Use memory, and give it back to the guest's kernel."""
    guest.check(f"mount -t tmpfs -o size=100% tmpfs /mnt && dd if=/dev/zero of=/mnt/all bs=1M count={mib} 2>/dev/null "
                "&& umount /mnt", timeout=300)


def check_cpus(guest: DebianGuest, ask: Asked) -> None:
    """One CPU, then four, two, and again; it ends with three."""

    def plug(number: int) -> None:
        ask("resize", cpus=number)
        wait(guest, f"[ -e /sys/devices/system/cpu/cpu{number - 1}/online ]")
        guest.check(ONLINE, timeout=240)
        assert guest.check("nproc") == f"{number}\n"
        assert ask("info")["vcpus"] == number

    assert guest.check("nproc") == "1\n"
    held = []
    for _ in range(2):
        plug(4)
        ask("resize", cpus=2)
        ask.until(vcpus=2)
        assert guest.check("nproc") == "2\n"
        assert guest.run("ls -d /sys/devices/system/cpu/cpu[23]").status != 0
        held.append(holds(guest, ask))
    assert held[0] == held[1]
    plug(3)  # one that was there before


def test_cpus_nodes_and_segments(
    kernel_of: Callable[..., Kernel], arch: Arch, image: Callable[..., Path], tmp_path: Path
) -> None:
    kernel = kernel_of("cloud")
    if arch.name == "aarch64":  # where Linux takes CPUs since 6.11
        try:
            kernel = kernel_of("cloud", suite=NEXT_SUITE)
        except KernelError as error:
            pytest.skip(f"no kernel of Debian's {NEXT_SUITE}: {error}")
    disk, later = image(8), image(16, "later.img")
    disk.write_bytes(b"far" + bytes((8 << 20) - 3))
    args = ["--memory-zone", "id=near,size=320M", "id=far,size=256M",
            "--numa", "guest_numa_id=0,cpus=[0-1],memory_zones=near,pci_segments=[0],distances=[1@25]",
            "guest_numa_id=1,cpus=[2-3],memory_zones=far,pci_segments=[1]",
            "--platform", "num_pci_segments=2", "--disk", f"path={disk},pci_segment=1"]
    with running(kernel, tmp_path, "virtio_pci", "virtio_blk", acpi=True, memory="size=0", args=args,
                 cpus="boot=1,max=4,topology=1:2:1:2") as (guest, ask):  # fmt: skip
        check_cpus(guest, ask)

        def check_nodes() -> None:
            assert guest.check(f"cat {NODES}/online {NODES}/node?/cpulist {NODES}/node?/distance").splitlines() == [
                "0-1", "0-1", "2", "10 25", "25 10"]
            assert 320 * MIB - ROOM < total(guest, 0) <= 320 * MIB
            assert 256 * MIB - ROOM < total(guest, 1) <= 256 * MIB
            assert "/pci0001:00/0001:00:" in guest.check("readlink /sys/block/vda")
            assert guest.check("cat /sys/bus/pci/devices/0001:00:*/numa_node; head -c 3 /dev/vda") == "1\nfar"

        check_nodes()
        for _ in range(2):
            ask("add_device", device="disk", options=f"path={later},id=later,pci_segment=1")
            wait(guest, "[ -b /dev/vdb ]")
            assert "/pci0001:00/0001:00:" in guest.check("readlink /sys/block/vdb")
            assert ask("remove_device", id="later", wait=120) == "removed"
            wait(guest, "[ ! -b /dev/vdb ]")
        healthy(guest)
        ask("reboot")
        guest.wait_ready(240)
        assert guest.check("nproc") == "3\n"
        check_nodes()
        assert guest.poweroff(120) == 0


def test_memory_by_acpi(kernel_of: Callable[[str], Kernel], tmp_path: Path) -> None:
    with running(kernel_of("cloud"), tmp_path, acpi=True, memory="size=512M,hotplug_size=2G",
                 cmdline="memhp_default_state=online") as (guest, ask):  # fmt: skip
        assert total(guest) <= 512 * MIB
        _, threads, slots = holds(guest, ask)
        for step, size in enumerate((GIB, 2 * GIB), 1):
            before = total(guest)
            ask("resize", memory=size)
            wait_for(guest, before + size // 2 - ROOM, size)
            assert ask("info")["memory"] == ask("info")["memory_actual"] == size
            assert holds(guest, ask)[2] == slots + step
        fill(guest, 1100)
        full = resident(guest)
        ask("reboot")
        guest.wait_ready(240)
        assert 2 * GIB - ROOM < total(guest) <= 2 * GIB
        assert resident(guest) < full - GIB // 2, "memory of the machine before"
        held = holds(guest, ask)
        assert held[1] == threads
        assert held[2] <= slots + 1
        ask("resize", memory=GIB)
        assert ask("info")["memory"] == 2 * GIB
        ask("reboot")
        guest.wait_ready(240)
        assert GIB - ROOM < total(guest) <= GIB == ask("info")["memory"]
        assert holds(guest, ask) == held
        assert guest.poweroff(120) == 0


def test_memory_by_virtio_mem(kernel_of: Callable[[str], Kernel], tmp_path: Path) -> None:
    with running(kernel_of("standard"), tmp_path, "virtio_pci", "virtio_mem",
                 memory="size=512M,hotplug_method=virtio-mem,hotplug_size=2G",
                 cmdline="memhp_default_state=online_movable") as (guest, ask):  # fmt: skip
        small, held = total(guest), holds(guest, ask)
        ask("resize", memory=2 * GIB)
        ask.until(memory=2 * GIB, memory_actual=2 * GIB)
        wait_for(guest, 2 * GIB - ROOM, 2 * GIB)
        ask("reboot")
        guest.wait_ready(240)
        ask.until(memory=2 * GIB)
        wait_for(guest, 2 * GIB - ROOM, 2 * GIB)
        fill(guest, 900)
        full = resident(guest)
        ask("resize", memory=512 * MIB)
        ask.until(memory=512 * MIB)
        wait_for(guest, 0, small + 16 * MIB)
        assert resident(guest) < full - GIB // 2, "what the guest gave back is the host's"
        assert holds(guest, ask) == held
        assert guest.poweroff() == 0
