# SPDX-License-Identifier: Apache-2.0
"""A Debian with systemd lives on our virtio devices: root file system, network, console."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.guest import DebianGuest
from vmm_testkit.net import Link
from vmm_testkit.process import kill_group, spawn

pytestmark = [pytest.mark.linux_guest, pytest.mark.timeout(900)]


class Terminal:
    """The host's end of a console on a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self.text = ""
        self._seen = 0

    def expect(self, pattern: str, timeout: float = 60.0) -> None:
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text[self._seen:])):
            self._socket.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                pytest.fail(f"no /{pattern}/ on the console after {timeout:g} s: {self.text[self._seen:]!r}")
            assert data, f"the console closed: {self.text!r}"
            self.text += data.decode(errors="replace")
        self._seen += found.end()

    def type(self, text: str) -> None:
        self._socket.sendall(text.encode())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def net(host_link: Callable[..., Link]) -> Link:
    return host_link("vmt0", address="192.168.74.1/24")


def flood(command: list[str]) -> str:
    """ping's last words, on the host."""
    return subprocess.run(command, capture_output=True, text=True).stdout


def check_network(guest: DebianGuest, net: Link, soak: Callable[[int, int], int]) -> None:
    """Ping floods without loss and TCP, both ways."""
    count = soak(1000, 50000)
    floods = [guest.run(f"ping -f -q -c {count} {net.address}", timeout=600).output]
    if shutil.which("ping"):
        floods.append(flood(["ping", "-f", "-q", "-c", str(count), net.guest_address]))
    for said in floods:
        assert f"{count} packets transmitted, {count} received, 0% packet loss" in said, said
    if not shutil.which("iperf3"):
        pytest.skip("needs iperf3 on the host: apt-get install iperf3")
    server = spawn(["iperf3", "-s", "--forceflush"])
    try:
        assert server.stdout is not None
        assert server.stdout.readline()  # it listens
        for direction in ("", "-R"):
            said = guest.check(f"iperf3 -J -c {net.address} -t {soak(3, 30)} {direction}", timeout=120)
            received = json.loads(said)["end"]["sum_received"]["bytes"]
            assert received > 10 << 20, f"{received} bytes {direction}"
    finally:
        kill_group(server)


def test_boots_to_a_login_prompt_with_a_network_and_reboots(
    debian_system: Callable[..., DebianGuest], net: Link, tmp_path: Path, soak: Callable[[int, int], int]
) -> None:
    console = tmp_path / "console"
    guest = debian_system("--net", f"tap={net.name}", "--console", f"socket={console}", "--rng", "src=/dev/urandom",
                          cpus="boot=2", cmdline=net.kernel_word, wait=False)
    deadline = time.monotonic() + 60
    while not console.exists():
        assert guest.process.poll() is None, guest.stderr
        assert time.monotonic() < deadline
        time.sleep(0.05)
    terminal = Terminal(console)
    guest.wait_ready()
    terminal.expect("debian login: ")
    terminal.type("root\n")
    terminal.expect(r"root@debian:~# ")
    terminal.type("echo $((6 * 7)) is $(systemctl is-system-running --wait)\n")
    terminal.expect("42 is running")
    assert guest.check("findmnt -no SOURCE,FSTYPE /").split() == ["/dev/vda", "ext4"]
    assert guest.check("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    guest.wait_online()
    check_network(guest, net, soak)
    for boot in range(soak(1, 5)):
        guest.check(f"echo {boot} >> /var/lib/boots; sync")
        guest.reboot(180)
        assert guest.check("wc -l < /var/lib/boots") == f"{boot + 1}\n"
        guest.wait_online()
        assert "0% packet loss" in guest.check(f"ping -q -c 3 -i 0.2 {net.address}")
        terminal.close()  # a reboot makes a new machine, which takes new connections
        terminal = Terminal(console)
        terminal.type("\n")
        terminal.expect("debian login: ")
    assert "EXT4-fs error" not in guest.check("dmesg")
    assert guest.poweroff(60) == 0, guest.stderr


@pytest.mark.parametrize("queues", [1, 4])
def test_fio_verifies_what_it_wrote_and_a_file_system_is_sound(
    debian_system: Callable[..., DebianGuest], image: Callable[..., Path], soak: Callable[[int, int], int], queues: int
) -> None:
    disk, plain = image(256), image(128, "plain.img")
    guest = debian_system("--disk", f"path={disk},serial=fio,num_queues={queues}",
                          "--disk", f"path={plain},serial=plain,num_queues={queues}", cpus=f"boot={queues}")
    device = "/dev/disk/by-id/virtio-fio"
    assert guest.check(f"ls /sys/block/$(basename $(readlink {device}))/mq").split() == [str(n) for n in range(queues)]
    said = guest.check(
        f"fio --name=verify --filename={device} --rw=randwrite --bs=4k --iodepth=16 --ioengine=libaio --direct=1 "
        f"--numjobs={queues} --size={256 // queues}M --offset_increment={256 // queues}M --verify=crc32c "
        f"--verify_backlog=256 --verify_fatal=1 --time_based --runtime={soak(8, 120)} --output-format=json 2>/dev/null",
        timeout=600)
    jobs = json.loads(said[said.index("{"):])["jobs"]
    assert len(jobs) == queues
    for job in jobs:
        assert job["error"] == 0
        assert job["write"]["total_ios"] > 100
        assert job["read"]["total_ios"] > 0
    # Requests of many pieces, and a file system on top
    guest.check(f"fio --name=big --filename={device} --rw=write --bs=1M --iodepth=4 --ioengine=libaio --direct=1 "
                "--size=32M --verify=crc32c --verify_fatal=1 --do_verify=1", timeout=120)
    spare = "/dev/disk/by-id/virtio-plain"
    guest.check(f"mkfs.ext4 -q {spare} && mount -o discard {spare} /mnt && cp -a /usr/sbin /mnt && "
                "(cd /mnt && find . -type f | sort | xargs sha256sum > /run/sums) && "
                "rm -rf /mnt/sbin/[a-m]* && sync && cp -a /usr/sbin/[a-m]* /mnt/sbin && umount /mnt", timeout=120)
    guest.check(f"fsck.ext4 -f -n {spare}", timeout=60)
    guest.check(f"echo 3 > /proc/sys/vm/drop_caches; mount -o ro {spare} /mnt && cd /mnt && "
                "sha256sum -c --quiet /run/sums && cd / && umount /mnt", timeout=120)
    assert guest.poweroff(60) == 0, guest.stderr
    if fsck := shutil.which("e2fsck", path="/usr/sbin:/sbin"):
        done = subprocess.run([fsck, "-f", "-n", plain], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
