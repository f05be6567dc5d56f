# SPDX-License-Identifier: Apache-2.0
"""A Debian guest with its own virtio_net driver: ping, TCP both ways, ethtool, unbind and bind, vhost-net, passt."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from vmm_testkit.guest import DebianGuest
from vmm_testkit.net import Link

pytestmark = pytest.mark.linux_guest

ADDRESS = "192.0.2.1/24"
Guests = Callable[..., DebianGuest]
Links = Callable[..., Link]


@pytest.fixture
def image(initramfs_factory: Callable[..., Path]) -> Path:
    for program, package in {"iperf3": "iperf3", "ethtool": "ethtool", "ping": "iputils-ping"}.items():
        if shutil.which(program, path="/usr/sbin:/usr/bin:/bin") is None:
            pytest.skip(f"no {program}; apt-get install {package}")
    return initramfs_factory(modules=["virtio_pci", "virtio_net"], programs=["iperf3", "/usr/sbin/ethtool"])


def interface(guest: DebianGuest, link: Link) -> None:
    guest.check(f"for i in 1 2 3 4 5 6 7 8 9 10; do ip link show eth0 && break; sleep 0.5; done; {link.guest_commands}")


def ping_flood(link: Link, count: int, size: int = 56) -> None:
    """None of `count` is lost."""
    done = subprocess.run(["ping", "-q", "-f", "-c", str(count), "-s", str(size), "-W", "5", link.guest_address],
                          capture_output=True, text=True, timeout=120, check=False)
    assert f" {count} received, 0% packet loss" in done.stdout, done.stdout + done.stderr


@contextmanager
def iperf_server(address: str) -> Iterator[None]:
    server = subprocess.Popen(["iperf3", "-s", "-B", address], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        server.kill()
        server.wait()


def iperf(guest: DebianGuest, link: Link, seconds: int, more: str = "") -> int:
    """Bits a second that arrived."""
    output = guest.check(f"iperf3 -J -c {link.address} -t {seconds} {more}", timeout=seconds + 60)
    return int(json.loads(output)["end"]["sum_received"]["bits_per_second"])


@pytest.mark.parametrize("options", ["", "vhost=on", "packed=on", "num_queues=4"])
def test_tap(debian_guest: Guests, host_link: Links, image: Path, options: str) -> None:
    if "vhost" in options and not Path("/dev/vhost-net").exists():
        pytest.skip("no /dev/vhost-net; modprobe vhost_net")
    link = host_link("tap0", address=ADDRESS, queues=2 if "num_queues" in options else 1)
    guest = debian_guest("--net", f"tap=tap0,mac=52:54:00:12:34:56,{options}".rstrip(","), initramfs=image)
    interface(guest, link)
    assert "52:54:00:12:34:56" in guest.check("ip link show eth0")
    features = guest.check("ethtool -k eth0")
    assert re.search("tcp-segmentation-offload: on", features) and re.search("tx-checksumming: on", features)
    ping_flood(link, 2000)
    ping_flood(link, 200, 8000)
    assert "0% packet loss" in guest.check(f"ping -c 5 -A {link.address}")
    with iperf_server(link.address):
        assert iperf(guest, link, 2) > 0
        assert iperf(guest, link, 2, "-R") > 0
    assert guest.poweroff() == 0


@pytest.mark.parametrize("options", ["", "vhost=on"])
def test_fewer_queues_and_rebinding_under_traffic(debian_guest: Guests, host_link: Links, image: Path,
                                                  soak: Callable[[int, int], int], options: str) -> None:
    if "vhost" in options and not Path("/dev/vhost-net").exists():
        pytest.skip("no /dev/vhost-net; modprobe vhost_net")
    link = host_link("tap0", address=ADDRESS, queues=2)
    guest = debian_guest("--net", f"tap=tap0,num_queues=4,mac=52:54:00:12:34:56,{options}".rstrip(","), initramfs=image,
                         cpus="boot=2")
    interface(guest, link)
    assert re.search(r"Combined:\s+2", guest.check("ethtool -l eth0"))
    noise = subprocess.Popen(["ping", "-q", "-f", link.guest_address], stdout=subprocess.DEVNULL)
    try:
        for pairs in (2, 1, 2, 1):
            guest.check(f"ethtool -L eth0 combined {pairs}")
            ping_flood(link, 300)
        path = guest.check("readlink -f /sys/class/net/eth0/device").strip()
        name = path.rpartition("/")[2]
        rounds = soak(20, 200)
        guest.check(f"cd /sys/bus/virtio/drivers/virtio_net; for n in $(seq {rounds}); do echo {name} > unbind; "
                    f"echo {name} > bind; {link.guest_commands}; done", timeout=600)
    finally:
        noise.kill()
        noise.wait()
    interface(guest, link)
    ping_flood(link, 500)
    assert guest.poweroff() == 0


def test_user_mode(debian_guest: Guests, host_link: Links, image: Path, tmp_path: Path) -> None:
    if shutil.which("passt") is None:
        pytest.skip("no passt; apt-get install passt")
    host_link("uplink", kind="dummy", address=ADDRESS)  # passt wants a default route
    subprocess.run(["ip", "route", "add", "default", "via", "192.0.2.254", "dev", "uplink"], check=True)
    (tmp_path / "hello").write_text("hello from the host\n")
    server = subprocess.Popen(["python3", "-m", "http.server", "8000", "--bind", "127.0.0.1", "--directory",
                               str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        guest = debian_guest("--net", "user,ports=[18080:80]", initramfs=image)
        guest.check("ip link set eth0 up; ip addr add 192.0.2.1/24 dev eth0; ip route add default via 192.0.2.254")
        # the gateway's address is the host's loopback
        assert guest.check("busybox wget -q -O - http://192.0.2.254:8000/hello", timeout=60) == "hello from the host\n"
        guest.check("echo hello from the guest > /tmp/index.html; busybox httpd -p 80 -h /tmp")
        from urllib.request import urlopen

        with urlopen("http://127.0.0.1:18080/index.html", timeout=60) as answer:
            assert answer.read() == b"hello from the guest\n"
        assert guest.poweroff() == 0
    finally:
        server.kill()
        server.wait()
        subprocess.run(["ip", "route", "del", "default", "dev", "uplink"], check=False)


def test_macvtap(debian_guest: Guests, host_link: Links, image: Path) -> None:
    host_link("uplink", kind="dummy")
    for name, kind in (("mv0", "macvlan"), ("mvt0", "macvtap")):
        subprocess.run(["ip", "link", "add", "link", "uplink", "name", name, "type", kind, "mode", "bridge"], check=True)
    link = Link("mv0", "macvlan", address=ADDRESS)
    subprocess.run(["ip", "addr", "add", ADDRESS, "dev", "mv0"], check=True)
    subprocess.run(["ip", "link", "set", "mv0", "up"], check=True)
    own = Path("/sys/class/net/mvt0/address").read_text().strip()
    guest = debian_guest("--net", "macvtap=mvt0", initramfs=image)
    interface(guest, link)
    assert own in guest.check("ip link show eth0"), "the guest has the macvtap's address"
    ping_flood(link, 500)
    with iperf_server(link.address):
        assert iperf(guest, link, 1) > 0
        assert iperf(guest, link, 1, "-R") > 0
    assert guest.poweroff() == 0
