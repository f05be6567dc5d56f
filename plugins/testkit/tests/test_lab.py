# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmm_testkit.kernels import Kernel
from vmm_testkit.lab import Lab, LabStalled, LabTimeout

pytestmark = [pytest.mark.busybox, pytest.mark.parametrize("debian_kernel", ["amd64"], indirect=True)]
CLI = [sys.executable, "-m", "vmm_testkit.cli"]


@pytest.fixture(autouse=True)
def _outside(request: pytest.FixtureRequest) -> None:
    if os.environ.get("VMM_IN_LAB"):
        pytest.skip("this is the lab: it is tested from outside")


def qemus() -> set[str]:
    """Process ids of all QEMUs that are our descendants (by session they are not: each has its own)."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"qemu-system" in path.read_bytes().split(b"\0")[0]:
                found.add(path.parent.name)
        except OSError:
            continue
    return found


def test_streams_status_directory_and_environment(debian_kernel: Kernel, qemu: str, tmp_path: Path) -> None:
    out, err = io.BytesIO(), io.BytesIO()
    shared = tmp_path / "shared"
    shared.mkdir()
    script = (
        "echo out; echo err >&2; echo again > /dev/stderr; pwd; cat job.txt; echo $WORD; echo $VMM_IN_LAB; id -u; "
        "test -r /dev/kvm -a -w /dev/kvm && echo kvm; ls --version | head -n 1; "
        "echo kept > shared/result; echo lost > lost; printf '\\000\\377\\r\\n'; seq 20000; exit 42"
    )
    (tmp_path / "job.txt").write_text("from outside\n")
    lab = Lab(kernel=debian_kernel, out=shared)
    argv = ["sh", "-c", script]
    status = lab.run(argv, cwd=tmp_path, env={"WORD": "a 'b' $c"}, timeout=120, stdout=out, stderr=err)
    assert status == 42
    # Nothing but the job's own bytes: no message of the lab's kernel, no carriage returns added.
    head, _, numbers = out.getvalue().partition(b"\0\377\r\n")
    lines = head.decode().splitlines()
    assert lines[:7] == ["out", str(tmp_path), "from outside", "a 'b' $c", "1", "0", "kvm"]
    assert "coreutils" in lines[7]
    assert numbers == "".join(f"{n}\n" for n in range(1, 20001)).encode()
    assert err.getvalue() == b"err\nagain\n"
    assert (shared / "result").read_text() == "kept\n"
    assert not (tmp_path / "lost").exists()


def test_drives_and_devices_for_networks(debian_kernel: Kernel, qemu: str, tmp_path: Path) -> None:
    disk = tmp_path / "a,b.img"  # a comma means something to QEMU
    disk.write_bytes(b"the first\n".ljust(1 << 20, b"\0"))
    job = """
from vmm_testkit.lab import drive
from vmm_testkit.net import Link
import os, sys
nodes = [drive(name) for name in ("data", "data-2", "other")]
print(nodes[2], nodes[0] != nodes[1])
with open(nodes[0], "r+b") as file:
    print(file.readline())
    file.seek(0)
    file.write(b"changed\\n")
print(open(nodes[0], "rb").readline(), open(nodes[1], "rb").readline())
print([os.path.exists(path) for path in ("/dev/net/tun", "/dev/vhost-net", "/dev/loop-control")])
with Link("br0", "bridge", address="192.0.2.1/24"), Link("t0", queues=4, bridge="br0", mtu=9000):
    print(os.path.exists("/sys/class/net/br0/brif/t0"), open("/sys/class/net/t0/mtu").read().strip())
print(os.path.exists("/sys/class/net/t0"))
"""
    out = io.BytesIO()
    lab = Lab(kernel=debian_kernel, drives={"data": disk, "data-2": disk})
    assert lab.run([sys.executable, "-c", job], timeout=120, stdout=out) == 0
    assert out.getvalue().decode().splitlines() == [
        "None True",
        repr(b"the first\n"),
        f"{b'changed' + bytes([10])!r} {b'the first' + bytes([10])!r}",
        "[True, True, True]",
        "True 9000",
        "False",
    ]
    assert disk.read_bytes().startswith(b"the first\n")


@pytest.mark.parametrize("drive", ["data", "=disk.img", "a b=disk.img", "data=no-such-file", f"{'x' * 21}=disk.img"])
def test_bad_drives_are_one_line(debian_kernel: Kernel, qemu: str, tmp_path: Path, drive: str) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(512))
    done = subprocess.run(
        [*CLI, "--drive", drive, "--", "true"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert re.fullmatch(r"vmm lab: (--)?drive .*\n", done.stderr)


def test_command_line_and_missing_command(debian_kernel: Kernel, qemu: str) -> None:
    done = subprocess.run(
        [*CLI, "--", "no-such-command"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


def test_a_job_killed_by_a_signal_and_a_daemon_left_behind(debian_kernel: Kernel, qemu: str) -> None:
    out = io.BytesIO()
    status = Lab(kernel=debian_kernel).run(
        ["sh", "-c", "sleep 1000 & echo hi; kill -9 $$"], timeout=120, stdout=out
    )
    assert status == 128 + signal.SIGKILL
    assert out.getvalue() == b"hi\n"


def test_timeout_and_stall(debian_kernel: Kernel, qemu: str) -> None:
    before = qemus()
    with pytest.raises(LabTimeout):
        Lab(kernel=debian_kernel).run(["sleep", "1000"], timeout=3)
    with pytest.raises(LabStalled, match="printed nothing for 2 s"):
        Lab(kernel=debian_kernel, stall_timeout=2).run(["sleep", "1000"], timeout=100)

    assert qemus() <= before


def test_a_cpu_that_shows_no_life_any_more(
    debian_kernel: Kernel, qemu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm_testkit.lab_session.BEAT_LIMIT", 15.0)
    stop = "for p in /proc/[0-9]*; do grep -q 'lab-[b]eat 1' $p/cmdline && kill -STOP ${p#/proc/}; done 2> /dev/null"
    kill = f"sleep 2; {stop}; while :; do echo busy; sleep 5; done"
    with pytest.raises(LabStalled, match="CPU 1 of the lab has stopped"):
        Lab(kernel=debian_kernel, cpus=2).run(["sh", "-c", kill], timeout=100)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_lab_leaves_no_qemu(debian_kernel: Kernel, qemu: str, number: signal.Signals) -> None:
    lab = subprocess.Popen(
        [*CLI, "--", "sh", "-c", "echo up; sleep 1000"],
        stdout=subprocess.PIPE,
        # a job in a shell's background ignores it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        assert lab.stdout is not None
        assert lab.stdout.readline() == b"up\n"
        children = Path(f"/proc/{lab.pid}/task/{lab.pid}/children").read_text().split()
        assert len(children) == 1
        lab.send_signal(number)
        lab.wait(20)
    finally:
        lab.kill()
        lab.wait()
    deadline = time.monotonic() + 20
    gone = Path(f"/proc/{children[0]}/exe")
    while gone.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not gone.exists()


def test_missing_qemu_is_one_line(debian_kernel: Kernel, tmp_path: Path) -> None:
    env = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([*CLI, "--", "true"], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert re.fullmatch(
        r"vmm lab: qemu-system-x86_64 is missing: .*apt-get install qemu-system-x86.*\n", done.stderr
    )


def test_a_terminal_is_needed_for_tty(debian_kernel: Kernel) -> None:
    done = subprocess.run(
        [*CLI, "--tty", "--", "true"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 2
    assert "--tty" in done.stderr
