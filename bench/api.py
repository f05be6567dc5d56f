# SPDX-License-Identifier: Apache-2.0
"""The REST API on this machine: how long its answers take beside busy guests, and what it costs who does not use it.

Latencies are those of one client on one connection, each from the request's first byte to the answer's last. The guests
have as many vCPUs as this machine has CPUs, so that API, client and guest want the same ones. Start-up is that of
``startup``, in two copies of the environment, with the package and without, by turns.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from startup import Startup, verdict
from stats import compare, percentiles, summary, table
from vmm_testkit.baremetal import BareMetal

TARGET_MS = 5.0
#: seconds in which a guest must be at work
PATIENCE = 60.0
CALLS = ("vmm.ping", "vm.info", "vm.counters")
#: what every vCPU of a guest does, over and over
GUESTS = {
    "halted": '__asm__ volatile("hlt")',
    "computing": '__asm__ volatile("pause")',
    "exiting": "outb(0x3f8, 0)",
}
SOURCE = """
#include "guest.h"
static void work(void *unused) {
  (void)unused;
  for (;;) %s;
}
int main(struct hvm_start_info *si) {
  (void)si;
  for (u32 cpu = 1; cpu < %d; cpu++) smp_start(cpu, cpu, work, 0);
  work(0);
  return 0;
}
"""
PACKAGES = ("vmm_api_rest", "__editable__.vmm_api_rest", "_editable_impl_vmm_api_rest", "h11")


class Api:
    """A running ``vmm run --api-socket``, and one connection to it."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._process, self._socket = process, connection

    def get(self, call: str) -> bytes:
        """The body of the answer."""
        self._socket.sendall(b"GET /api/v1/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % call.encode())
        data = self._receive()
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{call}: {data.decode()}")
        length = int(head.partition(b"Content-Length: ")[2].split(maxsplit=1)[0])
        while len(body) < length:
            body += self._receive()
        return body

    def _receive(self) -> bytes:
        data = self._socket.recv(1 << 16)
        if not data:
            raise RuntimeError(f"the VM has ended with status {self._process.wait()}")
        return data

    def times(self, call: str, number: int) -> list[float]:
        """ms of so many answers, one after the other."""
        found = []
        for _ in range(number):
            start = time.monotonic_ns()
            self.get(call)
            found.append((time.monotonic_ns() - start) / 1e6)
        return found


@contextmanager
def running(work: str, cpus: int) -> Iterator[Api]:
    """A VM all of whose vCPUs do this."""
    kernel = BareMetal(SOURCE % (work, cpus), name="busy.c").build()
    with tempfile.TemporaryDirectory(prefix="vmm-bench-") as folder:
        path = f"{folder}/api.sock"
        vmm = [str(Path(sys.prefix) / "bin/vmm"), "run", "--api-socket", path, "--kernel", str(kernel)]
        # With memory that can change vm.info has to ask the runner.
        more = ["--cpus", f"boot={cpus}", "--memory", "size=64M,hotplug_size=1G", "--serial", "null"]
        process = subprocess.Popen([*vmm, *more], stdin=subprocess.DEVNULL)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                until = time.monotonic() + PATIENCE
                while connection.connect_ex(path):
                    if process.poll() is not None:
                        raise RuntimeError(f"vmm ended with status {process.returncode}")
                    time.sleep(0.01)
                api = Api(process, connection)
                while not _at_work(api, cpus):
                    if time.monotonic() > until:
                        raise RuntimeError(f"after {PATIENCE:.0f} s not every vCPU has run; try `vmm check`")
                    time.sleep(0.01)
                yield api
        finally:
            process.terminate()
            process.wait()


def _at_work(api: Api, cpus: int) -> bool:
    """Whether every vCPU has run: the halted ones a moment, too."""
    if json.loads(api.get("vm.info"))["state"] != "Running":
        return False
    counters = json.loads(api.get("vm.counters"))
    return all(counters.get(f"vcpu{cpu}", {}).get("cpu_ns", 0) > 100_000 for cpu in range(cpus))


def latencies(quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """guest -> call -> ms."""
    cpus, number = os.cpu_count() or 1, 50 if quick else 2000
    found: dict[str, dict[str, dict[str, float]]] = {}
    for guest, work in GUESTS.items():
        with running(work, cpus) as api:
            for call in CALLS:
                api.times(call, 20)  # warm
                found.setdefault(guest, {})[call] = percentiles(api.times(call, number))
    return found


def environment(folder: Path, without: tuple[str, ...]) -> list[str]:
    """A copy of this environment, made of links, that lacks some packages; the interpreter and the script ``vmm``."""
    site = Path(sysconfig.get_path("purelib"))
    copy = folder / site.relative_to(sys.prefix)
    copy.mkdir(parents=True)
    for entry in site.iterdir():
        if not entry.name.startswith(without):
            (copy / entry.name).symlink_to(entry)
    (folder / "bin").mkdir()
    (folder / "bin/python").symlink_to(Path(sys.prefix) / "bin/python")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", folder)
    return [str(folder / "bin/python"), str(Path(sys.prefix) / "bin/vmm")]


def start_up(quick: bool) -> dict[str, list[float]]:
    """ms from the exec of ``vmm run`` to the guest's first exit, with the package and without."""
    startup = Startup()
    found: dict[str, list[float]] = {"with": [], "without": []}
    try:
        commands = {name: [*environment(startup.dir / name, PACKAGES if name == "without" else ("-",)),
                           *startup.vmm[1:]] for name in found}  # fmt: skip
        for command in commands.values():  # warm
            startup.front_ms(command)
        for number in range(1 if quick else 60):
            for name in sorted(found, reverse=bool(number % 2)):
                found[name].append(startup.front_ms(commands[name]))
    finally:
        startup.close()
    return found


def run(quick: bool) -> tuple[str, dict[str, Any]]:
    """Measure; the text to print, and the same as data."""
    answers, starts = latencies(quick), start_up(quick)
    rows = []
    for guest, calls in answers.items():
        for call, ms in calls.items():
            target = call == "vm.info"
            rows.append(
                [
                    f"{call}, {guest}",
                    *(f"{ms[key]:.2f}" for key in ("p50", "p99", "max")),
                    f"{TARGET_MS:.0f}" if target else "",
                    verdict(ms["p99"], TARGET_MS) if target else "",
                ]
            )
    ratio = compare(starts["without"], [starts["with"]], lower=True)
    data: dict[str, Any] = {
        "answers": answers,
        "start-up": {name: summary(values) for name, values in starts.items()} | {"with / without": ratio},
    }
    text = f"Answers of the REST API, beside a guest with {os.cpu_count()} vCPUs (ms)\n"
    text += table(["", "p50", "p99", "max", "p99 target", ""], rows)
    text += "\n  start-up of vmm run without --api-socket: " + ", ".join(
        f"{data['start-up'][name]['median']:.2f} ms {name} the package" for name in starts
    )
    text += f" ({ratio['ratio']:.3f}x"
    text += f", 95 %: {ratio['low']:.3f} to {ratio['high']:.3f})" if "low" in ratio else ")"
    return text, data
