# SPDX-License-Identifier: Apache-2.0
"""A disk belongs to one VM: seen by processes that hold it, and by ones that want it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from vmmcore import plan as planfile
from vmmcore.errors import UserError
from vmmcore.plan import open_path

HOLD = """
import sys
from vmmcore.plan import open_path
from vmmcore.errors import UserError
try:
    fd = open_path(sys.argv[1], sys.argv[2], "--disk path=", lock=True)
except UserError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
print("has it", flush=True)
if sys.argv[3:] == ["exec"]:  # into a program that knows nothing of it, as the front does
    import os
    os.set_inheritable(fd, True)
    os.execv("/bin/sleep", ["sleep", "1000"])
sys.stdin.read()
"""


def other(path: Path, mode: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", HOLD, str(path), mode, *more], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize(("first", "second", "allowed"), [
    ("rw", "rw", False), ("rw", "r", False), ("r", "rw", False), ("r", "r", True),
])
def test_two_processes(image: Path, first: str, second: str, allowed: bool) -> None:
    holder = other(image, first)
    try:
        assert line(holder) == "has it\n"
        wants = other(image, second)
        said, _ = wants.communicate(timeout=20)
        if allowed:
            assert (wants.returncode, said) == (0, "has it\n")
        else:
            assert wants.returncode == 2
            assert said.startswith(f"--disk path=: {image}: is in use by another virtual machine")
            assert said.count("\n") == 1
    finally:
        holder.kill()
        holder.communicate()
    os.close(open_path(str(image), "rw", "--disk path=", lock=True))  # free again, at once


def test_lock_outlives_exec_and_closing_of_duplicates(image: Path) -> None:
    holder = other(image, "rw", "exec")
    try:
        assert line(holder) == "has it\n"
        with pytest.raises(UserError, match="in use"):
            open_path(str(image), "rw", "--disk path=", lock=True)
    finally:
        holder.kill()
        holder.communicate()
    fd = open_path(str(image), "rw", "--disk path=", lock=True)
    os.close(os.dup(fd))
    os.close(os.open(image, os.O_RDWR))  # POSIX locks would go with this
    with pytest.raises(UserError, match="in use"):
        open_path(str(image), "rw", "--disk path=", lock=True)
    os.close(fd)


def test_refused_file_stays_closed(image: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fd = open_path(str(image), "rw", "--disk path=", lock=True)
    with pytest.raises(UserError, match="in use"):
        open_path(str(image), "r", "--disk path=", lock=True)
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("direct")
def test_saved_plan_locks_again(image: Path) -> None:
    plan = {"files": [{"path": str(image), "mode": "rw", "lock": True, "direct": True}]}
    fds = planfile.reopen(plan, print)
    try:
        import fcntl

        assert fcntl.fcntl(fds[0], fcntl.F_GETFL) & os.O_DIRECT
        with pytest.raises(UserError, match=r"--plan: .*in use"):
            planfile.reopen(plan, print)
    finally:
        planfile.close_all(fds)
    planfile.close_all(planfile.reopen(plan, print))
