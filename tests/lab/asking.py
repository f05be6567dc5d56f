# SPDX-License-Identifier: Apache-2.0
"""A Debian guest and the methods of its VM, which is in another process (asked_vmm.py)."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vmm_testkit.guest import DebianGuest
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel

VMM = [sys.executable, str(Path(__file__).with_name("asked_vmm.py"))]
MIB, GIB = 1 << 20, 1 << 30


class Asked:
    """The VM's methods, called in its process."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r")

    def __call__(self, method: str, /, **arguments: Any) -> Any:
        self._socket.sendall(json.dumps([method, arguments]).encode() + b"\n")
        answer = json.loads(self._lines.readline())
        assert "error" not in answer, answer
        return answer["ok"]

    def until(self, **wanted: int) -> None:
        """Wait until info() says so: the guest takes its time."""
        give_up = time.monotonic() + 240
        while not wanted.items() <= (info := self("info")).items():
            assert time.monotonic() < give_up, info
            time.sleep(0.2)


@contextmanager
def running(kernel: Kernel, tmp_path: Path, *modules: str, **keywords: Any) -> Iterator[tuple[DebianGuest, Asked]]:
    path = tmp_path / "ask"
    image = Initramfs(kernel, modules=modules).build()
    with DebianGuest(kernel, image, vmm=VMM, env={**os.environ, "VMM_ASK": str(path)}, **keywords) as guest:
        yield guest, Asked(path)
