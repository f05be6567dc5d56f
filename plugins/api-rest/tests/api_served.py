# SPDX-License-Identifier: Apache-2.0
"""A process that serves the API, for tests."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vmmcore.errors import VmmError

from vmm_api_rest.client import Client

VMM = str(Path(sys.executable).parent / "vmm")
HEAD = '#include "guest.h"\n'
FOREVER = HEAD + 'int main(struct hvm_start_info *si) { (void)si; for (;;) __asm__ volatile("pause"); }'
MIB = 1 << 20


class Served(Client):
    """A running `vmm run --api-socket`, and the client that speaks to it."""

    def __init__(self, socket: Path, *args: str, where: str = "", **more: Any) -> None:
        super().__init__(socket, timeout=60)
        command = [VMM, "run", "--api-socket", where or str(socket), *args]
        # There, where requests with made-up file names do no harm.
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, cwd=socket.parent, **more)  # fmt: skip

    def ready(self) -> Served:
        """Wait until it answers; AssertionError with what it says if it ends instead."""
        while True:
            try:
                self.request("GET", "vmm.ping")
                return self
            except VmmError:
                if self.process.poll() is not None:
                    raise AssertionError(self.end()[1]) from None
                select.select([], [], [], 0.02)

    def create(self, kernel: Path, **config: Any) -> None:
        """Create a VM with little in it."""
        body = {"payload": {"kernel": str(kernel)}, "memory": {"size": 64 * MIB}, "console": {"mode": "Off"}, **config}
        self.call("PUT", "vm.create", body)

    def put(self, name: str, body: Any = None) -> int:
        return self.request("PUT", name, body)[0]

    def info(self) -> Any:
        return self.call("GET", "vm.info")

    def runner(self) -> int:
        """The process of its VM."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        (runner,) = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        return runner

    def fds(self) -> list[str]:
        """What the process has open, without the connection that it would be asked on."""
        folder = f"/proc/{self.process.pid}/fd"
        found = []
        for name in os.listdir(folder):
            try:
                found.append(os.readlink(f"{folder}/{name}"))
            except OSError:
                continue
        return sorted(found)

    def holds_no_more(self, fds: list[str]) -> bool:
        """Whether it comes to have no more open than these: connections that have ended are closed a moment later."""
        deadline = time.monotonic() + 20
        while len(self.fds()) > len(fds):
            if time.monotonic() > deadline:
                return False
            select.select([], [], [], 0.02)
        return True

    def end(self) -> tuple[int, str]:
        """Its exit status and what it said on stderr."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors.decode()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.communicate()
