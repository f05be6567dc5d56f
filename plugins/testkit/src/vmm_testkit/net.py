# SPDX-License-Identifier: Apache-2.0
"""Network devices of the host for the time of a test: TAPs and bridges, made with ip(8). Needs root; best in the lab."""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from types import TracebackType
from typing import Self


class NetError(Exception):
    """The device cannot be made; one line."""


def ip(*words: str) -> str:
    """Run ``ip WORDS``; its output. Raises NetError."""
    program = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise NetError("ip is missing: run `apt-get install iproute2` as root")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NetError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


class Link:
    """A network device that is gone when the block ends.

    ``kind``: "tap" (persistent; with ``queues`` > 1 a multi-queue one), or a kind of ``ip link add`` such as
    "bridge" and "dummy". ``address``: "192.0.2.1/24", given to the device. ``bridge``: its master.
    """

    def __init__(
        self, name: str, kind: str = "tap", *, address: str = "", queues: int = 1, bridge: str = "", mtu: int = 0
    ) -> None:
        self.name = name
        self.kind = kind
        self._address = address
        self._queues = queues
        self._bridge = bridge
        self._mtu = mtu

    @property
    def address(self) -> str:
        """The host's own address on it."""
        return str(ipaddress.ip_interface(self._address).ip)

    @property
    def guest_address(self) -> str:
        """Another address of the network, for a guest."""
        return str(ipaddress.ip_interface(self._address).ip + 1)

    @property
    def kernel_word(self) -> str:
        """``ip=…`` for the kernel's command line of a Debian root: the guest gets ``guest_address``."""
        mask = ipaddress.ip_interface(self._address).netmask
        return f"ip={self.guest_address}::{self.address}:{mask}:::none"

    @property
    def guest_commands(self) -> str:
        """Shell commands that give ``guest_address`` to eth0 of an initramfs guest."""
        length = ipaddress.ip_interface(self._address).network.prefixlen
        return f"ip addr add {self.guest_address}/{length} dev eth0; ip link set eth0 up"

    def __enter__(self) -> Self:
        if self.kind == "tap":
            ip("tuntap", "add", "dev", self.name, "mode", "tap", *(["multi_queue"] if self._queues > 1 else []))
        else:
            ip("link", "add", self.name, "type", self.kind)
        try:
            if self._mtu:
                ip("link", "set", self.name, "mtu", str(self._mtu))
            if self._bridge:
                ip("link", "set", self.name, "master", self._bridge)
            if self._address:
                ip("addr", "add", self._address, "dev", self.name)
            ip("link", "set", self.name, "up")
        except NetError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            ip("link", "del", self.name)
        except NetError:
            pass  # taken away by the test, or by the VMM
