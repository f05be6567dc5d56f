# SPDX-License-Identifier: Apache-2.0
"""A Debian guest and the methods of its VM, which is in another process (asked_vmm.py); what that process holds."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vmm_testkit.firmware import with_acpi
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
def running(
    kernel: Kernel, tmp_path: Path, *modules: str, acpi: bool = False, programs: Sequence[str] = (), **keywords: Any
) -> Iterator[tuple[DebianGuest, Asked]]:
    """A guest and its VM; with ACPI on every architecture, if `acpi` is set."""
    if acpi:
        keywords = with_acpi(kernel.arch, **keywords)
    path = tmp_path / "ask"
    image = Initramfs(kernel, modules=modules, programs=programs).build()
    with DebianGuest(kernel, image, vmm=VMM, env={**os.environ, "VMM_ASK": str(path)}, **keywords) as guest:
        yield guest, Asked(path)


def wait(guest: DebianGuest, condition: str) -> None:
    """Wait until a command of the guest's shell succeeds."""
    guest.check(f"until {condition}; do sleep 0.05; done", timeout=240)


def healthy(guest: DebianGuest) -> None:
    log = guest.check("dmesg")
    assert not re.search(r"BUG|WARNING:|hung task|general protection|Oops", log), log


def runner(guest: DebianGuest) -> int:
    """The process that runs the VM."""
    return int(Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split()[0])


def holds(guest: DebianGuest, ask: Asked) -> tuple[int, list[str], int]:
    """Descriptors, threads and KVM memory slots of a VM, without io_uring's threads, which the kernel keeps at will."""
    process = Path(f"/proc/{runner(guest)}")
    return (len(list(process.glob("fd/*"))), [name for name in threads(process) if not name.startswith("iou-")],
            ask("info")["memory_slots"])


def threads(process: Path) -> list[str]:
    """Names of a process's threads; one that has ended is there a moment longer."""
    names = []
    for task in process.glob("task/*"):
        with suppress(OSError):
            names.append((task / "comm").read_text().strip())
    return sorted(names)


def resident(guest: DebianGuest, kind: str = "VmRSS") -> int:
    """Bytes of a VM in the host's RAM; of one kind of them: RssShmem is the guest's RAM if that is shared."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path(f"/proc/{runner(guest)}/status").read_text())
    assert found
    return int(found[1]) << 10
