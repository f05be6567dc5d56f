# SPDX-License-Identifier: Apache-2.0
"""Devices come and go in a Debian guest while it uses them; a balloon takes its memory and gives it back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from asking import MIB, Asked, running
from vmm_testkit.guest import DebianGuest
from vmm_testkit.kernels import Kernel

pytestmark = [
    pytest.mark.linux_guest,
    pytest.mark.arch("x86_64", reason="needs ACPI, which an Arm machine has with firmware only"),
    pytest.mark.timeout(900),
]

ECHO = Path(__file__).parent.parent / "baremetal" / "virtio_echo.py"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio-rng")
#: PCI devices by what they are: disks, networks, random bytes, echoes
COUNT = "cat /sys/bus/pci/devices/*/device | grep -c {} || true"
DEVICES = {"0x1042": "disk", "0x1041": "net", "0x1044": "rng", "0x107f": "echo"}


def runner(guest: DebianGuest) -> int:
    """The process that runs the VM."""
    return int(Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split()[0])


def holds(pid: int) -> tuple[int, list[str]]:
    """Descriptors and threads of a process, without io_uring's, which the kernel keeps as long as it likes."""
    names = sorted(comm.read_text().strip() for comm in Path(f"/proc/{pid}/task").glob("*/comm"))
    return len(list(Path(f"/proc/{pid}/fd").iterdir())), [name for name in names if not name.startswith("iou-")]


def resident(pid: int) -> int:
    """Bytes of a process in RAM."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def wait(guest: DebianGuest, condition: str) -> None:
    guest.check(f"until {condition}; do sleep 0.05; done", timeout=240)


def there(guest: DebianGuest, pci_id: str, number: int) -> None:
    wait(guest, f"[ $({COUNT.format(pci_id)}) = {number} ]")


def healthy(guest: DebianGuest) -> None:
    log = guest.check("dmesg")
    assert not re.search(r"BUG|WARNING:|hung task|general protection|Oops", log), log


def plug(ask: Asked, tmp_path: Path) -> None:
    ask("add_device", device="disk", options=f"path={tmp_path}/extra.img,id=disk")
    ask("add_device", device="net", options="tap=vmth0,id=net")
    ask("add_device", device="rng", options="id=rng")
    ask("add_device", device="--plugin", options=f"{ECHO},id=echo")


def test_devices_come_and_go_under_io(
    kernel_of: Callable[[str], Kernel], image: Callable[..., Path], tmp_path: Path, soak: Callable[[int, int], int]
) -> None:
    own, extra = image(16, "own.img"), image(16, "extra.img")
    extra.write_bytes(b"extra" * 1000 + bytes(16 * MIB - 5000))
    with running(
        kernel_of("cloud"), tmp_path, *MODULES, cpus="boot=2", cmdline="reboot=a", args=["--disk", f"path={own}"]
    ) as (guest, ask):
        guest.check("(while :; do dd if=/dev/urandom of=/dev/vda bs=64k count=64; done) > /dev/null 2>&1 &")
        pid, held = runner(guest), None
        for _ in range(soak(5, 100)):
            plug(ask, tmp_path)
            wait(guest, "[ -b /dev/vdb -a -e /sys/class/net/eth0 -a -e /sys/class/misc/hw_random ]")
            there(guest, "0x107f", 1)
            assert guest.check("head -c 5 /dev/vdb") == "extra"
            wait(guest, "dd if=/dev/hwrng of=/dev/null bs=16 count=1 2>/dev/null")
            guest.check("ip link set eth0 up")
            guest.check("(while dd if=/dev/vdb of=/dev/null bs=64k; do :; done) > /dev/null 2>&1 &")
            guest.check("(while dd if=/dev/hwrng of=/dev/null bs=16 count=100; do :; done) > /dev/null 2>&1 &")
            for name in DEVICES.values():
                assert ask("remove_device", id=name, wait=120) == "removed"
            for pci_id in ("0x1041", "0x1044", "0x107f"):
                there(guest, pci_id, 0)
            there(guest, "0x1042", 1)
            held = held or holds(pid)
            assert holds(pid) == held
        healthy(guest)
        plug(ask, tmp_path)
        there(guest, "0x1042", 2)
        guest.reboot(240)
        for pci_id, name in DEVICES.items():
            there(guest, pci_id, 2 if name == "disk" else 1)
        assert ask("remove_device", id="net", wait=120) == "removed"
        assert guest.poweroff() == 0, guest.stderr


def test_a_device_is_taken_by_force_and_another_comes(
    kernel_of: Callable[[str], Kernel], image: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = image(16, "first.img"), image(32, "second.img")
    with running(kernel_of("cloud"), tmp_path, *MODULES, cpus="boot=2") as (guest, ask):
        for _ in range(3):
            ask("add_device", device="disk", options=f"path={first},id=disk")
            wait(guest, "[ -b /dev/vda ]")
            guest.check("dd if=/dev/vda of=/dev/null bs=64k iflag=direct")
            # Not amid requests: Linux waits for them for good.
            assert ask("remove_device", id="disk", force=True) == "removed"
            # In the same slot, at once: the guest sees it when it has let go of the first.
            ask("add_device", device="disk", options=f"path={second},id=disk")
            wait(guest, f"[ $(cat /sys/block/vd?/size 2>/dev/null || echo 0) = {32 * MIB // 512} ]")
            assert ask("remove_device", id="disk", wait=120) == "removed"
            wait(guest, "! ls /dev/vd?")
        healthy(guest)
        assert guest.poweroff() == 0, guest.stderr


def test_a_guest_that_does_not_listen(
    kernel_of: Callable[[str], Kernel], image: Callable[..., Path], tmp_path: Path
) -> None:
    """Its removals are pending until it is rebooted."""
    disk = image(16)
    with running(kernel_of("cloud"), tmp_path, *MODULES, cmdline="acpiphp.disable=1 reboot=a") as (guest, ask):
        ask("add_device", device="disk", options=f"path={disk},id=disk")
        guest.check("echo 1 > /sys/bus/pci/rescan")
        wait(guest, "[ -b /dev/vda ]")
        assert ask("remove_device", id="disk", wait=5) == "pending"
        assert {d["id"]: d["state"] for d in ask("info")["devices"]}["disk"] == "removing"
        assert guest.run("dd if=/dev/vda of=/dev/null bs=64k count=1").status == 0
        guest.reboot(240)
        assert "disk" not in [d["id"] for d in ask("info")["devices"]]
        assert guest.poweroff() == 0, guest.stderr


def test_balloon(kernel_of: Callable[[str], Kernel], tmp_path: Path) -> None:
    with running(
        kernel_of("cloud"), tmp_path, "virtio_pci", "virtio_balloon", memory="size=512M",
        args=["--balloon", "free_page_reporting=on"],
    ) as (guest, ask):  # fmt: skip
        pid = runner(guest)

        def balloon(size: int) -> None:
            """Have a balloon of that size, and wait until it has it."""
            ask("resize", balloon=size)
            while ask("call", id="balloon0", method="statistics")["actual"] != size:
                guest.check("sleep 0.2")

        fill = "dd if=/dev/urandom of=/run/full bs=1M count=200 2>/dev/null"
        guest.check(f"mount -o remount,size=90% /run 2>/dev/null; {fill}")
        full = resident(pid)
        assert full > 200 * MIB
        guest.check("rm /run/full")
        while resident(pid) > full - 150 * MIB:  # reported by itself
            guest.check("sleep 0.2")
        total = int(guest.check("awk '/MemTotal/ { print $2 }' /proc/meminfo")) << 10
        balloon(256 * MIB)
        less = int(guest.check("awk '/MemTotal/ { print $2 }' /proc/meminfo")) << 10
        assert less == total - 256 * MIB
        assert ask("info")["memory_actual"] == 256 * MIB
        told = ask("call", id="balloon0", method="statistics")
        assert 0 < told["free_memory"] < 512 * MIB
        assert told["total_memory"] <= total
        balloon(0)
        assert int(guest.check("awk '/MemTotal/ { print $2 }' /proc/meminfo")) << 10 == total
        guest.check(fill)
        healthy(guest)
        assert guest.poweroff() == 0, guest.stderr


def test_balloon_deflates_rather_than_kills(kernel_of: Callable[[str], Kernel], tmp_path: Path) -> None:
    with running(
        kernel_of("cloud"), tmp_path, "virtio_pci", "virtio_balloon", memory="size=384M",
        args=["--balloon", "size=192M,deflate_on_oom=on"],
    ) as (guest, ask):  # fmt: skip
        while ask("call", id="balloon0", method="statistics")["actual"] < 150 * MIB:
            guest.check("sleep 0.2")
        # More than there is beside the balloon, in memory that cannot be dropped.
        guest.check("mkdir /m && mount -t tmpfs -o size=300M none /m")
        guest.check("dd if=/dev/zero of=/m/x bs=1M count=200", timeout=240)
        assert ask("call", id="balloon0", method="statistics")["actual"] < 150 * MIB
        assert not re.search(r"Out of memory|oom-kill", guest.check("dmesg"))
        assert guest.poweroff() == 0, guest.stderr
