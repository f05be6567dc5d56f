# SPDX-License-Identifier: Apache-2.0
"""Linux's drivers let go of each device and take it again, any number of times, while there is I/O."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.guest import DebianGuest
from vmm_testkit.net import Link

pytestmark = [pytest.mark.linux_guest, pytest.mark.timeout(900)]

# AGAIN shows that the driver has the device again.
CYCLES = r"""
cd /sys/bus/virtio/drivers/{driver}
device=$(ls -d virtio*)
n=0
while [ $n -lt {count} ]; do
    echo $device > unbind || exit 1
    echo $device > bind || exit 2
    {again} || exit 3
    n=$((n + 1))
done
"""


def rebind(guest: DebianGuest, driver: str, count: int, again: str) -> None:
    guest.check("dmesg -c > /dev/null")  # what the kernel says of the lab's CPU is none of ours
    said = guest.run(CYCLES.format(driver=driver, count=count, again=again), timeout=800)
    log = guest.check("dmesg")
    assert said.status == 0, (said.status, said.output, log[-2000:])
    assert not re.search(r"BUG|WARNING:|hung task|general protection", log), log


@pytest.mark.parametrize("options", ["", ",num_queues=2,packed=on"], ids=["split", "packed"])
def test_disk(virtio_guest: Callable[..., DebianGuest], image: Callable[..., Path], soak: Callable[[int, int], int],
              options: str) -> None:
    disk = image(32)
    guest = virtio_guest("--disk", f"path={disk}{options}", cpus="boot=2")
    # Writers and readers whose device goes away under them, and that come again: to nodes which are there all the time.
    # A disk that is still open keeps its number, and the next one gets another.
    guest.check("set -- $(tr : ' ' < /sys/block/vda/dev); for n in 0 1 2 3; do mknod /run/d$n b $1 $((n * 16)); done")
    for files in ("if=/dev/urandom of=$disk seek=256", "of=/dev/null if=$disk skip=256 iflag=direct"):
        guest.check(f"(while :; do for disk in /run/d?; do dd {files} bs=64k count=100; done; done) > /dev/null 2>&1 &")
    rebind(guest, "virtio_blk", soak(10, 200),
           "disk=/dev/$(ls $device/block) && dd if=$disk of=/dev/null bs=64k count=4 skip=$n iflag=direct")
    guest.check("disk=/dev/$(ls /sys/bus/virtio/devices/virtio0/block) && "
                "dd if=/dev/urandom of=/run/data bs=1M count=4 && dd if=/run/data of=$disk bs=1M conv=fsync")
    expected = guest.check("sha256sum /run/data").split()[0]
    assert guest.poweroff() == 0, guest.stderr
    assert hashlib.sha256(disk.read_bytes()[:4 << 20]).hexdigest() == expected


@pytest.mark.parametrize("options", ["", ",packed=on"], ids=["split", "packed"])
def test_net(virtio_guest: Callable[..., DebianGuest], host_link: Callable[..., Link], soak: Callable[[int, int], int],
             options: str) -> None:
    net = host_link("vmt0", address="192.168.74.1/24")
    guest = virtio_guest("--net", f"tap={net.name}{options}", cpus="boot=2", programs=["/usr/bin/ping"])
    flood = f"(while :; do /usr/bin/ping -f -q -c 1000 -s 1400 {net.address}; done) > /dev/null 2>&1 &"
    guest.check(f"{net.guest_commands}; {flood}")
    again = f"{{ until [ -e /sys/class/net/eth0 ]; do :; done; {net.guest_commands}; }}"
    rebind(guest, "virtio_net", soak(10, 200), f"{again} && /usr/bin/ping -q -c 1 -W 5 {net.address} > /dev/null")
    assert guest.poweroff() == 0, guest.stderr


def test_console(virtio_guest: Callable[..., DebianGuest], tmp_path: Path, soak: Callable[[int, int], int]) -> None:
    console, log = tmp_path / "console", tmp_path / "log"
    guest = virtio_guest("--console", f"file={console},ports=[log@file={log}]", cpus="boot=2")
    # The load is on the port: Linux 6.1 frees what it does not own when hvc0 has output under way (QEMU's the same)
    # and, it seems, when a port tells the host that it was opened. So the load opens it once a cycle.
    guest.check("(while :; do for port in /dev/vport*p1; do [ ! -c $port ] || while seq 1000; do :; done > $port; "
                "done; done) > /dev/null 2>&1 &")
    count = soak(10, 200)
    # The node is there before the host has announced the port. stty waits until the output is gone (TCSADRAIN).
    rebind(guest, "virtio_console", count, "{ until echo cycle-$n > /dev/hvc0; do :; done; stty -F /dev/hvc0 echo; }")
    guest.check("echo the last words > /dev/hvc0")
    assert guest.poweroff() == 0, guest.stderr
    text = console.read_text(errors="replace")
    assert "the last words" in text
    assert [f"cycle-{n}" for n in range(count) if f"cycle-{n}" in text] == [f"cycle-{n}" for n in range(count)]
    assert log.stat().st_size > 1000


def test_rng(virtio_guest: Callable[..., DebianGuest], soak: Callable[[int, int], int]) -> None:
    guest = virtio_guest("--rng", "src=/dev/urandom", cpus="boot=2")
    guest.check("(while :; do dd if=/dev/hwrng of=/dev/null bs=64 count=1000; done) > /dev/null 2>&1 &")
    rebind(guest, "virtio_rng", soak(10, 200),
           "{ until [ $(dd if=/dev/hwrng bs=32 count=1 2> /dev/null | wc -c) = 32 ]; do :; done; }")
    assert guest.poweroff() == 0, guest.stderr


def test_ethtool_changes_the_number_of_queues(
    virtio_guest: Callable[..., DebianGuest], host_link: Callable[..., Link], soak: Callable[[int, int], int]
) -> None:
    if not shutil.which("ethtool", path="/usr/sbin:/sbin"):
        pytest.skip("needs ethtool: apt-get install ethtool")
    net = host_link("vmt0", address="192.168.74.1/24", queues=4)
    guest = virtio_guest("--net", f"tap={net.name},num_queues=8", cpus="boot=4", memory="size=512M",
                         programs=["ethtool", "/usr/bin/ping"])
    guest.check(net.guest_commands)
    guest.check(f"(while :; do /usr/bin/ping -f -q -c 1000 {net.address}; done) > /dev/null 2>&1 &")
    for _ in range(soak(1, 20)):
        for pairs in (1, 4, 2, 3):
            guest.check(f"ethtool -L eth0 combined {pairs}")
            assert re.findall(r"Combined:\s+(\d+)", guest.check("ethtool -l eth0")) == ["4", str(pairs)]
            for cpu in range(4):
                ping = f"taskset {1 << cpu:x} /usr/bin/ping -q -c 20 -i 0.01 {net.address}"
                assert " 0% packet loss" in guest.check(ping)
    assert guest.poweroff() == 0, guest.stderr
