# SPDX-License-Identifier: Apache-2.0
"""The console in a Debian guest: hvc0, named ports, the driver taken away and given back."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.guest import DebianGuest

pytestmark = pytest.mark.linux_guest

#: a port's device file, by its name (what udev's links in /dev/virtio-ports are)
FIND = ("port() { for d in /sys/class/virtio-ports/*; do "
        "[ \"$(cat $d/name 2>/dev/null)\" = $1 ] && echo /dev/${d##*/}; done; }; ")
#: until somebody is connected, reading a port finds its end
ANSWER = FIND + ("for i in $(seq 50); do [ -n \"$(port agent)\" ] && break; sleep 0.1; done; agent=$(port agent);"
                 "(until read line; do sleep 0.1; done; echo \"%s to $line\") <>$agent >&0 &")


class Client:
    """Somebody at a socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.seen = b""

    def say(self, data: bytes) -> None:
        self.socket.sendall(data)

    def expect(self, text: bytes, nudge: bytes = b"") -> None:
        """Read until `text`; say `nudge` again whenever nothing came for two seconds."""
        self.socket.settimeout(2)
        for _ in range(30):
            try:
                while text not in self.seen:
                    part = self.socket.recv(4096)
                    assert part, f"hung up; seen: {self.seen!r}"
                    self.seen += part
            except TimeoutError:
                self.socket.sendall(nudge)
                continue
            self.seen = self.seen.partition(text)[2]
            return
        raise AssertionError(f"no {text!r}; seen: {self.seen!r}")


def test_hvc0_and_named_ports(debian_guest: Callable[..., DebianGuest], tmp_path: Path) -> None:
    guest = debian_guest(
        "--console", f"socket={tmp_path}/hvc0,ports=[agent@socket={tmp_path}/agent,log@file={tmp_path}/log]",
        modules=["virtio_pci", "virtio_console"])

    console = Client(tmp_path / "hvc0")
    guest.check("(echo ready; while read line; do echo \"got $line\"; done) </dev/hvc0 >/dev/hvc0 2>&1 &")
    console.expect(b"ready")
    console.say(b"hello\n")
    console.expect(b"got hello")

    guest.check(ANSWER % "answer")
    agent = Client(tmp_path / "agent")
    agent.say(b"question\n")
    agent.expect(b"answer to question")

    guest.check(FIND + "seq 20000 >$(port log)")
    assert (tmp_path / "log").read_bytes() == b"".join(b"%d\n" % n for n in range(1, 20001))

    dev = guest.check("cd /sys/bus/virtio/drivers/virtio_console && ls -d virtio*").strip()
    guest.check(FIND + "cat /dev/zero >$(port log) & cd /sys/bus/virtio/drivers/virtio_console;"
                f"for i in $(seq 20); do echo {dev} >unbind; echo {dev} >bind; done; sleep 1; kill %1 2>/dev/null; true")
    guest.check(ANSWER % "again")
    agent.say(b"question\n")
    agent.expect(b"again to question")
    assert guest.poweroff() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"], "sockets go with the VM"


def test_size_of_the_terminal(debian_guest: Callable[..., DebianGuest]) -> None:
    import fcntl
    import os
    import struct
    import termios

    guest = debian_guest("--console", "pty", modules=["virtio_pci", "virtio_console"], wait=False)
    guest.wait_ready()
    path = guest.stderr.partition("--console pty: ")[2].split()[0]
    slave = os.open(path, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 33, 99, 0, 0))
    os.write(slave, b"x")
    guest.check("for i in $(seq 50); do stty size </dev/hvc0 | grep -q '33 99' && exit 0; sleep 0.1; done; exit 1")
    os.close(slave)
    assert guest.poweroff() == 0


def test_login_over_hvc0_and_udevs_names(debian_system: Callable[..., DebianGuest], tmp_path: Path) -> None:
    guest = debian_system("--console", f"socket={tmp_path}/hvc0,ports=[org.example.agent@socket={tmp_path}/agent]")
    console, agent = Client(tmp_path / "hvc0"), Client(tmp_path / "agent")
    console.expect(b"login: ", nudge=b"\n")
    console.say(b"root\n")
    console.expect(b"# ")
    console.say(b"echo $((6 * 7))$((7 * 6)) >/dev/virtio-ports/org.example.agent\n")
    agent.expect(b"4242\n")
    guest.check("(until read line; do sleep 0.1; done; echo \"$line\" >/tmp/said)"
                " </dev/virtio-ports/org.example.agent &")
    agent.say(b"in it goes\n")
    guest.check("for i in $(seq 100); do grep -q 'in it goes' /tmp/said && exit 0; sleep 0.1; done; exit 1")
    assert guest.poweroff() == 0
