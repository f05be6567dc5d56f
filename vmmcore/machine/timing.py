# SPDX-License-Identifier: Apache-2.0
"""``vmm run --timing``: where the time from exec to the guest's init went. Imported only for that."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: phase -> what it covers
DOC = {
    "front": "the vmm command, from its start to the runner's exec",
    "interpreter": "exec to the first line of Python",
    "imports": "reading the plan, importing core and devices' modules",
    "kvm": "VM, memory regions, vCPUs, devices",
    "load": "kernel, initramfs and tables into guest memory",
    "first-instruction": "until vCPU 0 entered the guest",
    "first-exit": "until it first came back",
    "kernel": "until the guest's init wrote its first stamp to port 0x80",
    "init": "until it wrote its second one, ready for work",
}


class Timing:
    """Phases as (name, end in CLOCK_MONOTONIC ns); the first starts at the runner's exec."""

    def __init__(self, plan: dict[str, Any], started: int) -> None:
        self.exec_at = plan.get("t_exec") or started
        self.front_at = plan.get("t0") or 0
        self.marks: list[tuple[str, int]] = [("interpreter", started)]
        self.stamps: list[tuple[int, int]] = []
        self.machine: Any = None
        self.printed = False

    def mark(self, phase: str) -> None:
        self.marks.append((phase, time.monotonic_ns()))

    def stamp(self, value: int, when: int) -> None:
        self.stamps.append((value, when))
        if len(self.stamps) == 2:
            self.report()

    def _phases(self) -> list[tuple[str, int, int]]:
        ends = list(self.marks)
        if self.machine is not None:
            run, left = self.machine.first_run()
            ends += [(name, at) for name, at in (("first-instruction", run), ("first-exit", left)) if at]
        ends += [(name, at) for name, (_, at) in zip(("kernel", "init"), self.stamps, strict=False)]
        rows = [("front", self.front_at, self.exec_at)] if self.front_at else []
        last = self.exec_at
        for name, at in ends:
            rows.append((name, last, at))
            last = at
        return rows

    def report(self) -> None:
        """Print the table once."""
        if self.printed:
            return
        self.printed = True
        rows = self._phases()
        out = ["vmm: timing:          ms    since exec  phase\n"]
        for name, start, end in rows:
            since = f"{(end - self.exec_at) / 1e6:10.2f}" if name != "front" else "         -"
            out.append(f"vmm: timing: {(end - start) / 1e6:10.2f}  {since}  {name}: {DOC[name]}\n")
        sys.stderr.write("".join(out))
