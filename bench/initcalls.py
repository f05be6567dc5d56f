# SPDX-License-Identifier: Apache-2.0
"""Where a boot's time goes: the guest's own log with ``initcall_debug``, ours beside microvm's."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from boot import CMDLINE, Bench
from stats import table
from vmm_testkit.lab import LabStalled, LabTimeout

WORDS = CMDLINE + " initcall_debug printk.time=1 log_buf_len=4M"
INIT = """#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox dmesg -s 4000000
echo vmm-bench-init
while :; do /bin/busybox sleep 1000; done
"""
VARIANTS = ("vmm", "microvm")


def parse(log: str) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """(initcall -> ms, [(s, message)]) of a kernel log."""
    calls: dict[str, float] = {}
    lines: list[tuple[float, str]] = []
    for line in log.replace("\r", "").split("\n"):
        if not (found := re.match(r"\[ *(\d+\.\d+)\] (.*)", line)):
            continue
        lines.append((float(found[1]), found[2]))
        if called := re.match(r"initcall (\S+)\+.* after (\d+) usecs", found[2]):
            calls[called[1]] = calls.get(called[1], 0) + int(called[2]) / 1000
    return calls, lines


def measure(icount: bool) -> dict[str, dict[str, Any]]:
    """Boot each once; the logs by variant."""
    bench = Bench(cmdline=WORDS, init=INIT, variants=VARIANTS)
    found: dict[str, dict[str, Any]] = {}
    try:
        for attempt in range(5):
            wanted = [name for name in VARIANTS if name not in found]
            try:
                for result in bench.run(wanted, icount=icount, output=True, timeout=200, stall=40):
                    if result["init"]:
                        found[result["name"]] = result
                break
            except (LabStalled, LabTimeout):
                if attempt == 4:
                    raise
        return found
    finally:
        bench.close()


def report(results: dict[str, dict[str, Any]], top: int = 25) -> str:
    """Initcalls whose time differs most, and the widest gaps in each log."""
    parsed = {name: parse(result.get("output", "")) for name, result in results.items()}
    out = []
    if set(VARIANTS) <= set(parsed):
        ours, theirs = parsed["vmm"][0], parsed["microvm"][0]
        rows = sorted(((ours.get(k, 0) - theirs.get(k, 0), k) for k in {*ours, *theirs}), key=lambda r: -abs(r[0]))
        out.append(f"initcalls (ms): all vmm {sum(ours.values()):.1f}, microvm {sum(theirs.values()):.1f}")
        out.append(
            table(
                ["initcall", "vmm", "microvm", "difference"],
                [[k, f"{ours.get(k, 0):.2f}", f"{theirs.get(k, 0):.2f}", f"{d:+.2f}"] for d, k in rows[:top]],
            )
        )
    for name, (_, lines) in parsed.items():
        gaps = sorted(((b[0] - a[0], a, b) for a, b in pairwise(lines)), reverse=True)[:top]
        out.append(
            f"{name}: first stamp {lines[0][0]:.3f} s, last {lines[-1][0]:.3f} s; widest gaps"
            if lines
            else f"{name}: no log"
        )
        out += [f"  {gap * 1000:8.1f} ms  {a[0]:.3f} {a[1][:60]!r} -> {b[1][:60]!r}" for gap, a, b in gaps]
    return "\n".join(out)


def run(quick: bool) -> tuple[str, dict[str, Any]]:
    """The report, and the initcalls as data."""
    results = measure(icount=not quick)
    data = {
        name: {"init_ms": row["init"] / 1e6, "initcalls_ms": sum(parse(row.get("output", ""))[0].values())}
        for name, row in results.items()
    }
    return report(results), data
