# SPDX-License-Identifier: Apache-2.0
"""A pytest session spread over several labs: what each did, kept where it outlives the lab, and one closing line.

The pytest in a lab (:class:`Part`) appends a line to a file for each thing that happens; the pytest outside
(:func:`run_spread`) reads there what is left to do, and starts labs until nothing is.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

#: environment variables of a session in a lab: the file that all labs write; how many tests to run there
RECORD = "VMM_LAB_RECORD"
MOST = "VMM_LAB_TESTS"

#: of the closing line, in pytest's order
_CATEGORIES = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "error", "subtests passed")
_PLURALS = {"warnings": ("warning", "warnings"), "error": ("error", "errors")}


class Record:
    """What the file says: ``counts`` by pytest's categories, ``done`` node ids, ``total`` of tests (None: unknown)."""

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.done: set[str] = set()
        self.total: int | None = None
        again: set[str] = set()
        last: dict[str, int] = {}
        for line in path.read_text().splitlines() if path.is_file() else ():
            if not line.endswith("]"):
                continue  # the lab stopped in the middle of it
            kind, name, value = json.loads(line)
            if kind == "session":
                last[name] = value  # each lab says the same
            elif kind == "count":
                self.counts[name] += value
            elif kind == "teardown":
                if name not in again:
                    self.done.add(name)
            elif value:
                self.counts[value] += 1
                (again.add if value == "rerun" else again.discard)(name)
        self.total = last.pop("total", None)
        self.counts.update(last)

    @property
    def left(self) -> int | None:
        """How many tests are to be run still; None: no lab has got as far as to know."""
        return None if self.total is None else self.total - len(self.done)


class Part:
    """The plugin of the pytest in one lab: runs some of what is left, and keeps a record."""

    def __init__(self, config: pytest.Config, path: Path, most: int) -> None:
        self._config = config
        self._path = path
        self._most = most
        self._collected: Counter[str] = Counter()
        self._leaving_out = False

    def _note(self, kind: str, name: str, value: object) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps([kind, name, value]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def pytest_sessionstart(self) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.summary_stats = lambda: None  # it would count this part only

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._collected["error" if report.failed else "skipped"] += 1

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        if not self._leaving_out:
            self._collected["deselected"] += len(items)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what has been done, and what is more than one lab is to run."""
        done = Record(self._path).done
        for name, value in [*self._collected.items(), ("total", len(items))]:
            self._note("session", name, value)
        rest = [item for item in items if item.nodeid not in done]
        chosen = set(rest[: self._most or len(rest)])
        if len(chosen) < len(items):
            self._leaving_out = True
            self._config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
            items[:] = [item for item in items if item in chosen]

    def pytest_warning_recorded(self) -> None:
        self._note("count", "warnings", 1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        category = self._config.hook.pytest_report_teststatus(report=report, config=self._config)[0]
        self._note("report", report.nodeid, category)
        if report.when == "teardown":
            self._note("teardown", report.nodeid, category)


def closing_line(counts: Counter[str], seconds: float, width: int | None) -> str:
    """What pytest prints last, for these counts; as wide as ``width`` columns, or bare (``-q``)."""
    names = [*_CATEGORIES, *sorted(set(counts) - {*_CATEGORIES, ""})]
    parts = [f"{counts[name]} {_PLURALS.get(name, (name, name))[counts[name] != 1]}" for name in names if counts[name]]
    text = f"{', '.join(parts) or 'no tests ran'} in {seconds:.2f}s"
    if seconds >= 60:
        minutes, rest = divmod(int(seconds), 60)
        text += f" ({minutes // 60}:{minutes % 60:02}:{rest:02})"
    return text if width is None else f" {text} ".center(width, "=")


def run_spread(config: pytest.Config, run: Callable[[dict[str, str]], int], path: Path, width: int | None) -> int:
    """Run the session by ``run(environment) -> pytest's status``, as often as it takes; print the closing line.

    Raises what ``run`` raises; LabStalled only when ``--lab-retries`` are used up.
    """
    from vmm_testkit.lab import LabStalled

    most, retries = config.getoption("--lab-tests"), config.getoption("--lab-retries")
    limit = config.getoption("maxfail")
    begin = time.monotonic()
    record, status = Record(path), None
    while status is None:
        try:
            said = run({RECORD: str(path), MOST: str(most)})
        except LabStalled as error:
            if not retries:
                raise
            print(f"\n--lab: {error}", flush=True)
            retries -= 1
            if Record(path).left != 0:
                print(f"--lab: going on in another ({retries} times more)", flush=True)
                continue
            said = int(pytest.ExitCode.OK)
        before, record = record, Record(path)
        failures = record.counts["failed"] + record.counts["error"]
        stuck = len(record.done) == len(before.done)  # --collect-only, for one
        if said not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or (stuck and record.left):
            status = said
        elif record.left == 0 or (limit and failures >= limit):
            status = int(pytest.ExitCode.TESTS_FAILED if failures else pytest.ExitCode.OK)
    if config.get_verbosity() > -2:
        print(closing_line(Record(path).counts, time.monotonic() - begin, width), flush=True)
    return status
