# SPDX-License-Identifier: Apache-2.0
"""Devices come and go in a Debian guest while it uses them; a balloon takes its memory and gives it back.

On AArch64 the guest has ACPI by its firmware.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from asking import MIB, Asked, healthy, holds, resident, running, wait
from vmm_testkit.arch import Arch
from vmm_testkit.guest import DebianGuest, GuestDied
from vmm_testkit.kernels import Kernel
from vmm_testkit.net import Link
from vmm_testkit.process import kill_group, spawn

from vmmcore.errors import ExitCode

pytestmark = [pytest.mark.linux_guest, pytest.mark.timeout(900)]

#: the example's own where it is installed, as `tox -e lab` has it
ECHO = "virtio-echo" if find_spec("vmm_virtio_echo") else str(Path(__file__).parents[1] / "baremetal/virtio_echo.py")
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio-rng")
#: PCI devices by what they are: disks, networks, random bytes, echoes
COUNT = "cat /sys/bus/pci/devices/*/device | grep -c {} || true"
DEVICES = {"0x1042": "disk", "0x1041": "net", "0x1044": "rng", "0x107f": "echo"}
#: of the network that comes and goes
HOST, GUEST = "192.168.76.1", "192.168.76.2"


def there(guest: DebianGuest, pci_id: str, number: int) -> None:
    wait(guest, f"[ $({COUNT.format(pci_id)}) = {number} ]")


def plug(ask: Asked, tmp_path: Path) -> None:
    ask("add_device", device="disk", options=f"path={tmp_path}/extra.img,id=disk")
    ask("add_device", device="net", options=f"tap=vmth1,ip={HOST},mask=24,id=net")
    ask("add_device", device="rng", options="id=rng")
    ask("add_device", device="--plugin", options=f"{ECHO},id=echo")


@contextmanager
def load(guest: DebianGuest, net: Link, rate: int) -> Iterator[None]:
    """fio on /dev/vda and iperf3 on eth0, at `rate` operations and Mbit a second (0: as they can), without an error."""
    guest.check(net.guest_commands)
    server = spawn(["iperf3", "-s", "--forceflush"])
    try:
        assert server.stdout is not None
        assert server.stdout.readline()  # it listens
        guest.check("fio --name=load --filename=/dev/vda --size=16M --rw=randwrite --bs=4k --ioengine=libaio "
                    "--iodepth=4 --direct=1 --verify=crc32c --verify_backlog=64 --verify_fatal=1 "
                    f"--time_based --runtime=1d --thread --rate_iops={rate} "
                    "--output-format=json --output=/run/fio.json > /dev/null 2>&1 &")
        guest.check(f"iperf3 -c {net.address} -t 86400 -b {rate}M > /run/iperf3 2>&1 &")
        yield
        guest.check("pidof iperf3 || { cat /run/iperf3; false; }")
        guest.check("killall -INT fio iperf3; while pidof fio iperf3; do sleep 0.1; done", timeout=120)
        [job] = json.loads(guest.check("sed -n '/^{/,$p' /run/fio.json"))["jobs"]
        assert job["error"] == 0
        assert min(job["read"]["total_ios"], job["write"]["total_ios"]) > 0
    finally:
        kill_group(server)


def moved(guest: DebianGuest) -> tuple[int, int]:
    """Sectors that fio has written, and bytes that iperf3 has sent."""
    words = guest.check("cat /sys/block/vda/stat /sys/class/net/eth0/statistics/tx_bytes").split()
    return int(words[6]), int(words[-1])


@pytest.mark.timeout(2400)  # a hundred rounds
def test_devices_come_and_go_under_io(
    kernel_of: Callable[[str], Kernel], image: Callable[..., Path], host_link: Callable[..., Link], tmp_path: Path,
    soak: Callable[[int, int], int],
) -> None:
    own, extra, net = image(16, "own.img"), image(16, "extra.img"), host_link("vmth0", address="192.168.75.1/24")
    extra.write_bytes(b"extra" * 1000 + bytes(16 * MIB - 5000))
    with running(
        kernel_of("cloud"), tmp_path, *MODULES, acpi=True, programs=["fio", "iperf3"], memory="size=640M,shared=on",
        cpus="boot=2", cmdline="reboot=a", args=["--disk", f"path={own}", "--net", f"tap={net.name}"],
    ) as (guest, ask):  # fmt: skip
        with load(guest, net, 50):
            before, held, memory = moved(guest), None, []
            for _ in range(soak(5, 100)):
                plug(ask, tmp_path)
                wait(guest, "[ -b /dev/vdb -a -e /sys/class/net/eth1 -a -e /sys/class/misc/hw_random ]")
                there(guest, "0x107f", 1)
                assert guest.check("head -c 5 /dev/vdb") == "extra"
                wait(guest, "dd if=/dev/hwrng of=/dev/null bs=16 count=1 2>/dev/null")
                guest.check(f"ip addr add {GUEST}/24 dev eth1; ip link set eth1 up")
                wait(guest, f"ping -c 1 -W 1 {HOST}")
                guest.check(f"""
                    (while ping -A -c 100 {HOST}; do :; done) > /dev/null 2>&1 &
                    (while dd if=/dev/vdb of=/dev/null bs=64k; do :; done) > /dev/null 2>&1 &
                    (while dd if=/dev/hwrng of=/dev/null bs=16 count=100; do :; done) > /dev/null 2>&1 &""")
                for name in DEVICES.values():
                    assert ask("remove_device", id=name, wait=120) == "removed"
                for pci_id, name in DEVICES.items():
                    there(guest, pci_id, 1 if name in ("disk", "net") else 0)
                now = moved(guest)
                assert now[0] > before[0], "fio stands still"
                assert now[1] > before[1], "iperf3 stands still"
                before, held = now, held or holds(guest, ask)
                assert holds(guest, ask) == held
                memory.append(resident(guest, "RssAnon"))
            # Python's and malloc's pools have most of what they need after three rounds, and all after a hundred.
            assert memory[-1] - memory[2] < MIB, memory
        healthy(guest)
        plug(ask, tmp_path)
        there(guest, "0x1042", 2)
        guest.reboot(240)
        for pci_id, name in DEVICES.items():
            there(guest, pci_id, 2 if name in ("disk", "net") else 1)
        assert ask("remove_device", id="net", wait=120) == "removed"
        assert guest.poweroff(120) == 0, guest.stderr


def test_by_force_and_after_a_panic(
    kernel_of: Callable[[str], Kernel], arch: Arch, image: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = image(16, "first.img"), image(32, "second.img")
    panic = ["pvpanic-pci"] if arch.name == "x86_64" else []  # Debian's arm64 kernels have no driver for it
    with running(kernel_of("cloud"), tmp_path, *MODULES, *panic, acpi=True, cpus="boot=2") as (guest, ask):
        for _ in range(2):
            ask("add_device", device="disk", options=f"path={first},id=disk")
            wait(guest, "[ -b /dev/vda ]")
            guest.check("dd if=/dev/vda of=/dev/null bs=64k iflag=direct")
            # Open, but not amid requests.
            guest.check("sleep 1000 < /dev/vda > /dev/null 2>&1 & echo $! > /run/user")
            assert ask("remove_device", id="disk", force=True) == "removed"
            # In the same slot, at once: the guest sees it when it has let go of the first.
            ask("add_device", device="disk", options=f"path={second},id=disk")
            wait(guest, f"[ $(cat /sys/block/vd?/size 2>/dev/null | tail -n 1) = {32 * MIB // 512} ]")
            guest.check("kill $(cat /run/user)")
            assert ask("remove_device", id="disk", wait=120) == "removed"
            wait(guest, "! ls /dev/vd?")
        if panic:
            ask("add_device", device="pvpanic", options="id=panic")
            wait(guest, "ls -d /sys/bus/pci/drivers/pvpanic-pci/0000:*")
            assert ask("remove_device", id="panic", wait=120) == "removed"
            ask("add_device", device="pvpanic", options="id=panic")
            wait(guest, "ls -d /sys/bus/pci/drivers/pvpanic-pci/0000:*")
        healthy(guest)
        # Linux waits for requests that were under way, for good; everything else goes on.
        ask("add_device", device="disk", options=f"path={first},id=disk")
        wait(guest, "[ -b /dev/vda ]")
        held = holds(guest, ask)
        guest.check("(while dd if=/dev/vda of=/dev/null bs=64k iflag=direct; do :; done) > /dev/null 2>&1 &")
        guest.check("until [ $(awk '{ print $1 }' /sys/block/vda/stat) -gt 1000 ]; do :; done")
        assert ask("remove_device", id="disk", force=True) == "removed"
        assert holds(guest, ask)[0] < held[0]
        assert guest.check("echo $((6 * 7))") == "42\n"
        if panic:
            with pytest.raises(GuestDied):
                guest.run("echo c > /proc/sysrq-trigger")
            assert guest.wait() == ExitCode.PANIC


def test_balloon_and_a_guest_that_does_not_listen(
    kernel_of: Callable[[str], Kernel], arch: Arch, image: Callable[..., Path], tmp_path: Path
) -> None:
    """Removals are pending until it is rebooted."""
    disk = image(16)
    with running(
        kernel_of("cloud"), tmp_path, *MODULES, "virtio_balloon", acpi=True, cmdline="acpiphp.disable=1 reboot=a",
        args=["--balloon", "free_page_reporting=on,deflate_on_oom=on"],
    ) as (guest, ask):  # fmt: skip

        def total() -> int:
            return int(guest.check("awk '/MemTotal/ { print $2 }' /proc/meminfo")) << 10

        def told() -> Any:
            return ask("call", id="balloon0", method="statistics")

        def balloon(size: int) -> None:
            """Have a balloon of that size, and wait until it has it."""
            ask("resize", balloon=size)
            while told()["actual"] != size:
                guest.check("sleep 0.2")

        fill = "dd if=/dev/zero of=/m/full bs=1M count=200 2>/dev/null"
        guest.check(f"mkdir /m && mount -t tmpfs -o size=400M none /m && {fill}")
        full = resident(guest)
        assert full > 200 * MIB
        guest.check("rm /m/full")
        while resident(guest) > full - 150 * MIB:  # reported by itself
            guest.check("sleep 0.2")
        before = total()
        balloon(256 * MIB)
        # With deflate_on_oom the guest does not count what the balloon has as lost.
        assert ask("info")["memory_actual"] == 256 * MIB
        assert 0 < told()["free_memory"] < 256 * MIB
        assert told()["total_memory"] <= before
        # More than there is beside the balloon, in memory that cannot be dropped.
        guest.check("dd if=/dev/zero of=/m/full bs=1M count=280", timeout=240)
        assert told()["actual"] < 256 * MIB
        balloon(0)

        ask("add_device", device="disk", options=f"path={disk},id=disk")
        guest.check("echo 1 > /sys/bus/pci/rescan")
        wait(guest, "[ -b /dev/vda ]")
        assert ask("remove_device", id="disk", wait=2) == "pending"
        assert {d["id"]: d["state"] for d in ask("info")["devices"]}["disk"] == "removing"
        guest.check("dd if=/dev/vda of=/dev/null bs=64k count=1")
        log = guest.check("dmesg")
        assert not re.search(r"Out of memory|oom-kill", log), log
        healthy(guest)
        guest.reboot(240)
        assert "disk" not in [d["id"] for d in ask("info")["devices"]]
        assert guest.poweroff(120) == 0, guest.stderr
