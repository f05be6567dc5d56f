# SPDX-License-Identifier: Apache-2.0
"""What runs in the lab for disks and networks: VMs that live side by side, and commands for them in turn.

``python -I -S inlab_io.py JOB.json``; one line of JSON per command on standard output. Standard library only.
A guest that does not answer in time is killed, started again and asked again, twice at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time

READY, BEGIN, END = b"bench-ready", b"bench-begin", b"bench-end"
KVM = "/sys/kernel/debug/kvm"
STATS = (
    "exits",
    "io_exits",
    "mmio_exits",
    "halt_exits",
    "irq_exits",
    "irq_injections",
    "insn_emulation",
    "signal_exits",
    "halt_successful_poll",
    "halt_wakeup",
)


class Silent(Exception):
    """The guest does not answer, or is gone."""


def clock() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def vms() -> set[str]:
    with contextlib.suppress(OSError):
        return {name for name in os.listdir(KVM) if name[0].isdigit()}
    return set()


class Vm:
    def __init__(self, job: dict, patience: float) -> None:  # type: ignore[type-arg]
        self.name = job["name"]
        self.patience = patience
        known = vms()
        self._errors = open(f"/tmp/{self.name.replace('/', '_')}.err", "w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            job["argv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={"PATH": "/usr/bin:/bin", "HOME": "/", "TMPDIR": "/tmp", **job.get("env", {})},
            start_new_session=True,
        )
        self._seen = b""
        self.pid, self.folder = 0, ""
        try:
            self.until(READY)
            for name in vms() - known:
                self.pid, self.folder = int(name.split("-")[0]), f"{KVM}/{name}"
            for line in job.get("setup", ()):
                done = self.command(line)
                if done["status"]:
                    raise Silent(f"{line}: status {done['status']}: {done['output']}")
        except Silent:
            self.close()
            raise

    def until(self, word: bytes) -> bytes:
        """What the guest says up to the end of the line with `word`. Raises Silent."""
        out = self._process.stdout
        assert out
        end = clock() + int(self.patience * 1e9)
        while True:
            at = self._seen.find(word)
            line = self._seen.find(b"\n", at) if at >= 0 else -1
            if line >= 0:
                text, self._seen = self._seen[: line + 1], self._seen[line + 1 :]
                return text
            left = (end - clock()) / 1e9
            if left <= 0 or not select.select([out], [], [], left)[0]:
                raise Silent(f"no answer; last: {self._seen[-300:]!r}; {self.said()}")
            data = os.read(out.fileno(), 65536)
            if not data:
                raise Silent(f"gone; last: {self._seen[-300:]!r}; {self.said()}")
            self._seen += data

    def said(self) -> str:
        """The end of its standard error."""
        self._errors.flush()
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode(errors="replace")

    def command(self, line: str) -> dict:  # type: ignore[type-arg]
        """Run one command in the guest; its output, its status, and what it cost here."""
        assert self._process.stdin
        before, start = self.costs(), clock()
        try:
            os.write(self._process.stdin.fileno(), line.encode() + b"\n")
        except OSError as error:
            raise Silent(f"gone: {error}; {self.said()}") from None
        self.until(BEGIN)
        text = self.until(END).decode(errors="replace").replace("\r", "")
        took, after = clock() - start, self.costs()
        output, _, status = text.rpartition(END.decode())
        costs = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
        return {"output": output, "status": int(status), "ns": took, "costs": costs}

    def costs(self) -> dict[str, int]:
        """KVM's counters, and CPU time of each thread by its name (ns), its waits to run and its switches."""
        found: dict[str, int] = {}
        for stat in STATS:
            with contextlib.suppress(OSError, ValueError), open(f"{self.folder}/{stat}") as file:
                found[stat] = int(file.read())
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{self.pid}/task"):
                with open(f"/proc/{self.pid}/task/{task}/comm") as file:
                    name = file.read().strip()
                with open(f"/proc/{self.pid}/task/{task}/schedstat") as file:
                    ran, _, slices = (int(word) for word in file.read().split())
                found[f"cpu {name}"] = found.get(f"cpu {name}", 0) + ran
                found[f"runs {name}"] = found.get(f"runs {name}", 0) + slices
        return found

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self._errors.close()


def forget_files() -> None:
    """Every command finds the page cache empty, whatever ran before it, or in another lab."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("1")


def say(**result: object) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def main() -> None:
    with open(sys.argv[1]) as file:
        job = json.load(file)
    jobs = {vm["name"]: vm for vm in job["vms"]}
    running: dict[str, Vm] = {}
    if "server" in job:
        env = {"PATH": "/usr/bin:/bin", "TMPDIR": "/tmp"}
        subprocess.Popen(job["server"], stdin=subprocess.DEVNULL, stdout=sys.stderr, env=env)
    for step in job["steps"]:
        name = step["vm"]
        for attempt in range(3):
            try:
                if name not in running:
                    say(vm=name, starts=True)  # a sign of life: silence means that the lab has stopped
                    running[name] = Vm(jobs[name], job["patience"])
                    say(vm=name, starts=False)
                forget_files()
                result = running[name].command(step["command"])
                say(**step, **result)
                break
            except Silent as error:
                say(vm=name, error=f"{step.get('key')}: {error}", attempt=attempt)
                if name in running:
                    running.pop(name).close()
    for vm in running.values():
        vm.close()


if __name__ == "__main__":
    main()
