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

# AGAIN waits for what shows that the driver has the device again.
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
    said = guest.run(CYCLES.format(driver=driver, count=count, again=again), timeout=800)
    assert said.status == 0, (said.status, said.output, guest.run("dmesg | tail -n 20").output)
    assert not re.search(r"BUG|WARNING:|hung task", guest.check("dmesg"))


@pytest.mark.parametrize("options", ["", ",num_queues=2,packed=on"], ids=["split", "packed"])
def test_disk(virtio_guest: Callable[..., DebianGuest], image: Callable[..., Path], soak: Callable[[int, int], int],
              options: str) -> None:
    disk = image(32)
    guest = virtio_guest("--disk", f"path={disk}{options}", cpus="boot=2")
    # Writers and readers whose device goes away under them, and that come again.
    guest.check("(while :; do dd if=/dev/urandom of=/dev/vda bs=64k seek=256 count=200; done) > /dev/null 2>&1 &")
    guest.check("(while :; do dd if=/dev/vda of=/dev/null bs=64k skip=256 iflag=direct; done) > /dev/null 2>&1 &")
    rebind(guest, "virtio_blk", soak(10, 200), "dd if=/dev/vda of=/dev/null bs=64k count=4 skip=$n iflag=direct")
    guest.check("dd if=/dev/urandom of=/run/data bs=1M count=4 && dd if=/run/data of=/dev/vda bs=1M conv=fsync")
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
    console = tmp_path / "console"
    guest = virtio_guest("--console", f"file={console}", cpus="boot=2")
    guest.check("(while :; do seq 1000 > /dev/hvc0; done) > /dev/null 2>&1 &")
    count = soak(10, 200)
    rebind(guest, "virtio_console", count, "{ until [ -c /dev/hvc0 ]; do :; done; echo cycle-$n > /dev/hvc0; }")
    guest.check("echo the last words > /dev/hvc0")
    assert guest.poweroff() == 0, guest.stderr
    text = console.read_text(errors="replace")
    assert "the last words" in text
    assert f"cycle-{count - 1}" in text


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
