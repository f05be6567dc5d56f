# SPDX-License-Identifier: Apache-2.0
"""Start-up on this machine, as ratios to a bare interpreter's, and the runner's memory.

The guest's first act, so its first exit, is a byte to the serial port. What is measured is the time from
posix_spawn to that byte's arrival here: a little more than the first exit itself, seen from outside.
The bare interpreter is measured from posix_spawn to its end. All kinds take turns, so that what else
this machine does disturbs all alike.
"""

from __future__ import annotations

import marshal
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inlab
import tiny
from boot import make_plan
from bundle import base_python
from stats import summary, table

from vmmcore.front.config import DeviceConfig

RAM_MIB = 512
TARGETS = {"runner": 1.6, "vmm run": 8.0}
PRIVATE_TARGET_MIB = 5.0


def spawn(argv: list[str], out: int, inherit: list[int], stdin: int) -> int:
    """posix_spawn with our standard error; `inherit` stays open in the child under the same numbers."""
    for fd in inherit:
        os.set_inheritable(fd, True)
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, out, 1)]
    return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)


class Startup:
    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="vmm-bench-"))
        self.null = os.open("/dev/null", os.O_RDWR)
        self.off, self.halt = tiny.write(self.dir / "off", off=True), tiny.write(self.dir / "halt", off=False)
        self.plans: dict[Path, dict[str, Any]] = {}
        for kernel in (self.off, self.halt):
            target = self.dir / f"{kernel.name}.plan"
            self.runner, _ = make_plan(
                target,
                kernel=kernel,
                cmdline="",
                memory=f"size={RAM_MIB}M",
                devices=[DeviceConfig("serial", "tty")],
            )
            self.plans[kernel] = marshal.loads(target.read_bytes())
        self.vmm = [
            str(Path(sys.prefix) / "bin/vmm"),
            "run",
            "--kernel",
            str(self.off),
            "--serial",
            "tty",
            "--memory",
            f"size={RAM_MIB}M",
        ]

    def close(self) -> None:
        os.close(self.null)
        shutil.rmtree(self.dir, ignore_errors=True)

    def _start_runner(self, kernel: Path, out: int, flags: tuple[str, ...] = (), **changes: Any) -> tuple[int, int]:
        plan = self.plans[kernel]
        fds = [
            os.dup((self.null, out, out)[entry["stdio"]]) if "stdio" in entry else os.open(entry["path"], os.O_RDONLY)
            for entry in plan["files"]
        ]
        memfd = os.memfd_create("plan", 0)
        os.write(memfd, marshal.dumps({**plan, **changes, "fds": fds}))
        argv = [self.runner[0], *flags, *self.runner[1:], str(memfd)]
        start = time.monotonic_ns()
        pid = spawn(argv, out, [*fds, memfd], self.null)
        for fd in (*fds, memfd):
            os.close(fd)
        return pid, start

    def bare(self) -> float:
        """ms of ``python -I -S -c pass``."""
        start = time.monotonic_ns()
        pid = spawn([base_python(), "-I", "-S", "-c", "pass"], self.null, [], self.null)
        self._reap(pid)
        return (time.monotonic_ns() - start) / 1e6

    def runner_ms(self) -> float:
        """ms from the runner's exec to the guest's byte."""
        return self._until_mark(lambda out: self._start_runner(self.off, out))

    def front_ms(self, command: list[str] | None = None) -> float:
        """ms from the exec of ``vmm run`` (or of another command that does it) to the guest's byte."""

        def start(out: int) -> tuple[int, int]:
            at = time.monotonic_ns()
            return spawn(command or self.vmm, out, [], self.null), at

        return self._until_mark(start)

    def _until_mark(self, start: Callable[[int], tuple[int, int]]) -> float:
        read_end, write_end = os.pipe()
        pid, at = start(write_end)
        os.close(write_end)
        try:
            data = os.read(read_end, 1)
            now = time.monotonic_ns()
        finally:
            os.close(read_end)
            self._reap(pid)
        if data != tiny.MARK:
            raise RuntimeError("the guest gave no sign; try `vmm check`")
        return (now - at) / 1e6

    @staticmethod
    def _reap(pid: int) -> None:
        status = os.waitstatus_to_exitcode(os.wait4(pid, 0)[1])
        if status:
            raise RuntimeError(f"a child ended with status {status}")

    def memory(self) -> dict[str, int]:
        """KiB of a runner whose guest has halted, guest RAM aside."""
        read_end, write_end = os.pipe()
        pid, _ = self._start_runner(self.halt, write_end)
        os.close(write_end)
        try:
            os.read(read_end, 1)
            return inlab.memory(pid, RAM_MIB << 20)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.wait4(pid, 0)
            os.close(read_end)

    def modules(self) -> tuple[int, int]:
        """Modules imported after the interpreter's own start, by the runner and by the front."""
        script = "import sys; print(len(sys.modules))"
        bare = self._imports([base_python(), "-I", "-S", "-X", "importtime", "-c", script])
        front = self._imports([sys.executable, "-X", "importtime", *self.vmm])
        read_end, write_end = os.pipe()
        saved = os.dup(2)
        os.dup2(write_end, 2)
        try:
            pid, _ = self._start_runner(self.off, self.null, flags=("-X", "importtime"))
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(write_end)
        with open(read_end, "rb") as file:
            runner = file.read().count(b"import time:")
        self._reap(pid)
        return runner - bare, front - bare

    @staticmethod
    def _imports(argv: list[str]) -> int:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        return done.stderr.count(b"import time:")


def run(quick: bool) -> tuple[str, dict[str, Any]]:
    """Measure; the text to print, and the same as data."""
    startup = Startup()
    kinds = {"python -I -S": startup.bare, "runner": startup.runner_ms, "vmm run": startup.front_ms}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    try:
        for measure in kinds.values():  # warm
            measure()
        for _ in range(1 if quick else 30):
            for name, measure in kinds.items():
                times[name].append(measure())
        memory, (runner_modules, front_modules) = startup.memory(), startup.modules()
    finally:
        startup.close()
    data: dict[str, Any] = {name: summary(values) for name, values in times.items()}
    base = data["python -I -S"]["median"]
    rows = []
    for name in kinds:
        middle, target = data[name]["median"], TARGETS.get(name)
        data[name]["ratio"] = middle / base
        rows.append(
            [
                name,
                f"{middle:.2f}",
                f"{data[name]['min']:.2f}",
                f"{middle / base:.2f}x",
                f"{target:.1f}x" if target else "",
                verdict(middle / base, target) if target else "",
            ]
        )
    data["memory_kib"] = memory
    data["modules"] = {"runner": runner_modules, "vmm run": front_modules}
    private = memory["private"] / 1024
    text = "Start-up on this machine, exec to the guest's first exit (medians of "
    text += f"{data['runner']['n']})\n" + table(["", "ms", "min", "ratio", "target", ""], rows)
    text += f"\n  runner's memory, guest RAM aside: private {private:.2f} MiB (target {PRIVATE_TARGET_MIB:.0f}: "
    text += f"{verdict(private, PRIVATE_TARGET_MIB)}), PSS {memory['pss'] / 1024:.2f} MiB"
    text += f"\n  modules imported beyond the interpreter's own: runner {runner_modules}, front {front_modules}"
    return text, data


def verdict(value: float, target: float) -> str:
    return "met" if value <= target else "MISSED"
