# SPDX-License-Identifier: Apache-2.0
"""guests/hostile.c: whatever the guest writes where, its runner goes on, keeps quiet and does not grow."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from baremetal_suite import DEVICES, guest
from vmm_testkit.guest import default_vmm
from vmm_testkit.lab import in_lab

pytestmark = pytest.mark.needs_kvm

#: bytes of the runner's own memory (guest RAM is a memfd and no part of it) that a long attack may add
MAY_GROW = 2 << 20


def private_memory(pid: int) -> int:
    """Anonymous memory of the process in bytes."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.parametrize(("seed", "cpus"), [(1, 1), (0xDECAFBAD, 2)])
def test_hostile_guest(seed: int, cpus: int) -> None:
    rounds, step = (600, 61) if in_lab() else (2000, 1 if seed == 1 else 31)  # the lab is some ten times slower
    elf = guest("hostile", SEED=seed, CPUS=cpus, ROUNDS=rounds, STEP=step).build()
    command = [*default_vmm(), "--kernel", str(elf), "--serial", "tty", "--memory", "size=64M"]
    command += ["--cpus", f"boot={cpus}", *DEVICES]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    output = b""
    memory: dict[bytes, int] = {}
    fds: dict[bytes, int] = {}
    try:
        for line in process.stdout:
            output += line
            if line.startswith(b"MARK "):
                memory[line] = private_memory(process.pid)
                fds[line] = len(os.listdir(f"/proc/{process.pid}/fd"))
                process.stdin.write(b"g")
                process.stdin.flush()
        status = process.wait(30)
    finally:
        process.kill()
        process.wait()
    assert process.stderr is not None
    errors = process.stderr.read().decode(errors="replace")
    assert re.search(rb"^EXIT:0\r?$", output, re.MULTILINE), (output[-2000:], errors[-2000:], status)
    assert status == 0, errors[-2000:]
    assert len(memory) == 3
    assert "Traceback" not in errors
    assert "vmm: error" not in errors  # of the device classes' handlers
    assert len(errors) < 10_000, errors[:1000]  # a guest cannot fill the host's log
    first, half, last = memory.values()
    assert last - half < MAY_GROW, f"{first} → {half} → {last} bytes"
    assert max(fds.values()) - min(fds.values()) <= 8, fds  # MSI-X vectors and their like, made once
