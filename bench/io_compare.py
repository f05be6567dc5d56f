# SPDX-License-Identifier: Apache-2.0
"""Running the contestants in turn, and what comes of it: a table of ratios, the same as data, and a plot.

A row is one measurement: "4k randread, cache=none, 1 queue". Its ratio is ours to the better of QEMU's machines, and
so that more than 1 is better for us, in latencies as well.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import chart
from io_lab import VMMS, IoBench
from stats import compare, summary, table
from vmm_testkit.lab import LabStalled, LabTimeout

REACH, HALF = 1.0, 1.2
RESULTS = Path(__file__).resolve().parent / "results"

#: reads a step's output: row's name -> value
Reader = Callable[[dict[str, Any]], dict[str, float]]
Samples = dict[str, dict[str, list[float]]]


class Contest:
    """Samples of all rows: row -> VMM -> values.

    `only`: of the rows whose names have this in them; `rounds`: by the wall clock.
    """

    def __init__(self, bench: IoBench, quick: bool, only: str = "", rounds: int = 5) -> None:
        self.bench = bench
        self.quick = quick
        self.only = only
        self.rounds = rounds
        self.samples: Samples = {}
        self.units: dict[str, str] = {}
        self.limits: dict[str, float] = {}
        self.costs: dict[str, dict[str, dict[str, int]]] = {}
        self.notes: list[str] = []

    def _keep(self, step: dict[str, Any], read: Reader, prefix: str) -> bool:
        if "error" in step:
            self.notes.append(f"{prefix}{step['vm']}: {step['error'][:300]}")
            return False
        values = read(step)
        for row, value in values.items():
            print(f"{time.strftime('%H:%M:%S')} {prefix}{row}: {step['vm']} {value:.0f}", file=sys.stderr, flush=True)
        if not values:
            self.notes.append(f"{prefix}{step['vm']}, {step['key']}: no result: {step['output'][-300:]!r}")
        for row, value in values.items():
            self.samples.setdefault(prefix + row, {}).setdefault(step["vm"], []).append(value)
        self.costs.setdefault(prefix + step["key"], {})[step["vm"]] = step["costs"]
        return bool(values)

    def counted(
        self, prefix: str, vm: Callable[[str, int], dict[str, Any]], commands: Sequence[tuple[str, str]], read: Reader,
        setup: str,
    ) -> None:  # fmt: skip
        """Each VMM alone, by the clock that counts instructions; runs that stop are made again."""
        commands = self._wanted(prefix, commands)
        for name in VMMS:
            missing = list(commands)
            for _ in range((1 if self.quick else 6) if missing else 0):
                steps = [{"vm": name, "key": key, "command": command.format(n=0)} for key, command in missing]
                for step in self._lab([vm(name, 0)], steps, setup, icount=True, prefix=prefix):
                    if self._keep(step, read, prefix):
                        missing = [entry for entry in missing if entry[0] != step["key"]]
                if not missing:
                    break

    def alternating(
        self, prefix: str, vm: Callable[[str, int], dict[str, Any]], commands: Sequence[tuple[str, str]], read: Reader,
        setup: str,
    ) -> None:  # fmt: skip
        """All VMMs side by side by the wall clock; they take turns, and a first round warms up."""
        commands = self._wanted(prefix, commands)
        if not commands:
            return
        wanted = 1 if self.quick else self.rounds
        names = list(VMMS)
        vms = [vm(name, n) for n, name in enumerate(names)]
        done = 0
        for _ in range(3 + wanted // 5):
            steps = []
            for turn in range(wanted - done + 1):
                for key, command in commands:
                    for at in range(len(names)):
                        n = (turn + at) % len(names)
                        steps.append({"vm": names[n], "key": key, "turn": turn, "command": command.format(n=n)})
            last = 0
            for step in self._lab(vms, steps, setup, icount=False, prefix=prefix):
                if step.get("turn", 0) > 0 or "error" in step:
                    self._keep(step, read, prefix)
                    last = max(last, step.get("turn", 0))
            done += last
            if done >= wanted:
                break

    def _wanted(self, prefix: str, commands: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        return [command for command in commands if self.only in prefix + command[0]]

    def _lab(
        self, vms: list[dict[str, Any]], steps: list[dict[str, Any]], setup: str, *, icount: bool, prefix: str
    ) -> Iterator[dict[str, Any]]:
        try:
            yield from self.bench.run(vms, steps, setup=setup, icount=icount, timeout=300, stall=90 if icount else 75)
        except (LabStalled, LabTimeout) as error:
            self.notes.append(f"{prefix}the lab stopped ({str(error).splitlines()[0]}); another one went on")

    # --- what came of it

    def rows(self) -> list[dict[str, Any]]:
        found = []
        for row, by_vmm in self.samples.items():
            unit = next(text for end, text in self.units.items() if row.endswith(end))
            lower = unit == "us"
            entry: dict[str, Any] = {"row": row, "unit": unit, "clock": "wall" if "wall" in row else "counted"}
            entry |= {name: summary(values) for name, values in by_vmm.items()}
            theirs = [values for name, values in by_vmm.items() if name != "vmm"]
            if theirs and "vmm" in by_vmm:
                entry |= compare(by_vmm["vmm"], theirs, lower)
                entry["reach"] = next((limit for word, limit in self.limits.items() if word in row), REACH)
            found.append(entry)
        return found

    def report(self, name: str, title: str) -> tuple[str, dict[str, Any]]:
        """The table and the data; the plot goes to bench/results/NAME.svg. With `only` other rows are saved ones."""
        rows = self.rows()
        saved = RESULTS / f"{name}.json"
        if self.only and saved.exists():
            old = json.loads(saved.read_text())["results"]
            new = {row["row"]: row for row in rows}
            measured = tuple({row.rpartition(": ")[0] for row in new})
            self.notes = [note for note in old["notes"] if not note.startswith(measured)] + self.notes
            rows = [new.pop(row["row"], row) for row in old["rows"]] + list(new.values())
            self.costs = old["costs"] | self.costs
        cells = []
        for row in rows:
            middles = [f"{row[vmm]['median']:.0f}" if vmm in row else "-" for vmm in VMMS]
            ratio, reach = row.get("ratio"), row.get("reach", REACH)
            verdict = ""
            if ratio is not None and ratio < reach:
                verdict = "undecided" if row.get("high", 0) >= reach else f"below {reach:.2f}x"
            between = f"{row['low']:.2f} to {row['high']:.2f}" if "low" in row else ""
            cells.append([row["row"], row["unit"], *middles, f"{ratio:.2f}x" if ratio else "-", between, verdict])
        ratios = [row["ratio"] for row in rows if "ratio" in row]
        text = [title, table(["", "unit", *VMMS, "vmm/QEMU", "95 % of such runs", ""], cells)]
        text.append("  " + reached(rows))
        text += ["  " + note for note in self.notes]
        if ratios and not self.quick:
            bars = [(row["row"], row["ratio"]) for row in rows if "ratio" in row]
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.svg").write_text(chart.bars(f"{title}: vmm / best of QEMU", bars, (REACH, HALF)))
        return "\n".join(text), {"rows": rows, "costs": self.costs, "notes": self.notes}


def reached(rows: Sequence[dict[str, Any]]) -> str:
    """What was aimed at, in one line."""
    known = [row for row in rows if "ratio" in row]
    good = sum(row["ratio"] >= row["reach"] for row in known)
    open_ = sum(row["ratio"] < row["reach"] <= row.get("high", 0) for row in known)
    better = sum(row["ratio"] >= HALF for row in known)
    unknown = f"; {len(rows) - len(known)} unknown" if len(known) < len(rows) else ""
    text = f"{good} of {len(known)} rows reach what they shall, {open_} are undecided"
    return f"{text}; {better} are at {HALF}x or more{unknown}"
