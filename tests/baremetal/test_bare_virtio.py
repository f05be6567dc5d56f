# SPDX-License-Identifier: Apache-2.0
"""guests/virtio_hostile.c: malformed rings and registers for each virtio device. One run a device, one test a case."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from baremetal_suite import HERE, guest
from vmm_testkit.guest import default_vmm
from vmm_testkit.lab import in_lab

pytestmark = pytest.mark.needs_kvm

#: what is attacked -> its virtio device type
IDS = {"echo": 63, "blk": 2, "net": 1, "tap": 1, "vhost": 1, "console": 3, "rng": 4, "balloon": 5, "mem": 24}
#: the plugins of those that are not named after theirs
PLUGIN = {"tap": "net", "vhost": "net"}
#: what the cases of one device type are named
TYPES = {63: "echo", 2: "blk", 1: "net", 3: "console", 4: "rng", 5: "balloon", 24: "mem"}
HEADERS = ("virtio_cases.h", "virtio_rings.h", "virtio_life.h", "virtio_registers.h", "virtio_races.h")
RAM_MIB = 64
DISK_SECTORS = 2048
CASE = re.compile(r"^CASE(?:_OF\((\w+), |\()(\w+)\)", re.MULTILINE)


def cases() -> list[tuple[str, str]]:
    """(device, case) of all that is run, read from the guest's source."""
    text = "".join((HERE / "guests" / name).read_text() for name in HEADERS)
    found = CASE.findall(text)
    return [(device, name) for device in IDS for only, name in found if only.lower() in ("", TYPES[IDS[device]])]


class Outcome(NamedTuple):
    output: str
    errors: str
    status: int


def sector(number: int) -> bytes:
    return struct.pack("<Q", number) + bytes(503) + bytes([(number ^ 0xA5) & 0xFF])


class Host:
    """What the host gives the device and looks at afterwards; `args` for ``vmm run``."""

    def __init__(self, device: str, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.fds: list[int] = []
        self.frames = 0
        self.ends: list[socket.socket] = []
        self.memory = f"size={RAM_MIB}M"
        self.args: list[str] = getattr(self, device)()

    def echo(self) -> list[str]:
        return ["--plugin", f"{HERE / 'virtio_echo.py'},packed=on"]

    def rng(self) -> list[str]:
        return ["--rng", "packed=on"]

    def balloon(self) -> list[str]:
        return ["--balloon", "free_page_reporting=on,packed=on"]

    def mem(self) -> list[str]:
        self.memory += ",hotplug_method=virtio-mem,hotplug_size=128M"
        return []

    def blk(self) -> list[str]:
        self.image = self.folder / "disk.img"
        self.image.write_bytes(b"".join(map(sector, range(DISK_SECTORS))))
        return ["--disk", f"path={self.image},packed=on"]

    def console(self) -> list[str]:
        self.text = self.folder / "console.txt"
        return ["--console", f"file={self.text},packed=on"]

    def net(self) -> list[str]:
        ours, theirs = socket.socketpair()
        self.ends = [ours, theirs]
        self.fds = [theirs.fileno()]

        def drain() -> None:
            while data := ours.recv(1 << 16):
                self.frames += data.count(b"v" * 50)

        self.thread = threading.Thread(target=drain)
        self.thread.start()
        return ["--net", f"fd={theirs.fileno()},packed=on"]

    def tap(self) -> list[str]:
        return self.need("/dev/net/tun", f"tap={self.name()},packed=on")

    def vhost(self) -> list[str]:
        return self.need("/dev/vhost-net", f"tap={self.name()},vhost=on")

    def name(self) -> str:
        return f"vmmh{os.getpid() % 100_000}"

    def need(self, path: str, options: str) -> list[str]:
        if os.geteuid() or not os.access(path, os.R_OK | os.W_OK):
            pytest.skip(f"needs root and {path}; run with --lab")
        return ["--net", options]

    def close(self) -> None:
        for end in reversed(self.ends):
            end.close()
        if self.ends:
            self.thread.join()

    def check(self) -> None:
        """Nothing of the host's memory came out, and nothing of the disk changed but what was to."""
        if self.device == "blk":
            assert self.image.read_bytes() == b"".join(map(sector, range(DISK_SECTORS)))
        elif self.device == "console":
            assert b"v" * 64 in self.text.read_bytes()
        elif self.device == "net":
            assert self.frames > 50


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    known: dict[str, Outcome | BaseException] = {}

    def run(device: str) -> Outcome:
        if device not in known:
            try:
                known[device] = attack(device, tmp_path_factory.mktemp(device))
            except (AssertionError, pytest.skip.Exception) as error:
                known[device] = error
        outcome = known[device]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return run


def attack(device: str, folder: Path) -> Outcome:
    plugin = PLUGIN.get(device, device)
    if plugin != "echo" and find_spec(f"vmm_virtio_{plugin}") is None:
        pytest.skip(f"vmm-virtio-{plugin} is not installed: pip install ./plugins/virtio-{plugin}")
    host = Host(device, folder)
    defines = {"DEVICE": IDS[device], "KERNEL_HAS_RINGS": int(device == "vhost"), "DISK_SECTORS": DISK_SECTORS}
    elf = guest("virtio_hostile", CPUS=2, RAM_MIB=RAM_MIB, **defines).build()
    command = [*default_vmm(), "--kernel", str(elf), "--serial", "tty", "--memory", host.memory]
    command += ["--cpus", "boot=2", *host.args]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=host.fds
    )
    try:
        out, err = process.communicate(timeout=280 if in_lab() else 100)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    finally:
        host.close()
    outcome = Outcome(out.decode(errors="replace"), err.decode(errors="replace"), process.returncode)
    if outcome.status == 0:
        host.check()
    return outcome


# A lab is good for a few tests each; there the test of the whole run names the cases that failed.
if not in_lab():

    @pytest.mark.parametrize(("device", "case"), cases())
    def test_case(outcomes: Callable[[str], Outcome], device: str, case: str) -> None:
        output, errors, status = outcomes(device)
        found = re.search(rf"^CASE {case} (.*?)\r?$", output, re.MULTILINE)
        assert found is not None, f"not reached; status {status}\n{output[-2000:]}\n{errors[-2000:]}"
        assert found[1] == "ok", f"{found[1]}\n{errors[-2000:]}"


@pytest.mark.parametrize("device", IDS)
def test_the_vmm_ends_well(outcomes: Callable[[str], Outcome], device: str) -> None:
    output, errors, status = outcomes(device)
    done = dict(re.findall(r"^CASE (\w+) (.*?)\r?$", output, re.MULTILINE))
    bad = {case: done.get(case, "not reached") for kind, case in cases() if kind == device and done.get(case) != "ok"}
    assert not bad, f"status {status}\n{output[-1000:]}\n{errors[-2000:]}"
    assert re.search(r"^EXIT:0\r?$", output, re.MULTILINE), output[-2000:] + errors[-2000:]
    assert status == 0, errors[-2000:]
    assert "Traceback" not in errors
    assert "Sanitizer" not in errors
    assert len(errors) < 20_000, errors[:1000]  # a guest cannot fill the host's log


def test_there_are_enough_cases() -> None:
    for device in IDS:
        assert len([case for kind, case in cases() if kind == device]) >= 60
