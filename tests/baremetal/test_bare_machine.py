# SPDX-License-Identifier: Apache-2.0
"""Guests whose output or end is looked at from the host: memory, clocks, serial port, reset and power."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from baremetal_suite import Run
from vmm_testkit.lab import in_lab

pytestmark = pytest.mark.needs_kvm


def test_memory_hole(run: Run) -> None:
    run("memory", memory="size=3328M", defines={"RAM_MIB": 3328}).check()  # the host needs as much; the lab has 4 GiB


def test_timers(run: Run) -> None:
    output = run("timer").check().output
    found = re.search(r"^RTC (.*)$", output, re.MULTILINE)
    assert found is not None, output
    shown = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - shown) < timedelta(days=1)  # the host's clock, in UTC


def test_serial(run: Run) -> None:
    lines = (
        100_000 if in_lab() else 200_000
    ) // 64  # one exit per byte: slow in the lab; either is more than any buffer
    output = run("serial", defines={"BYTES": lines * 64}).check().output
    assert "by interrupt: 0123456789\n" in output
    wanted = "".join(
        "".join(chr(65 + (n + i * 7) % 57) for i in range(63)) + "\n" for n in range(lines)
    )  # fmt: skip
    assert output.partition("BEGIN\n")[2].partition("END\n")[0] == wanted


def test_reset(run: Run) -> None:
    result = run("reset", devices=True, cpus="boot=2").check()
    boots = re.findall(r"^BOOT (\d+) fds (\d+)$", result.output, re.MULTILINE)
    assert [int(number) for number, _ in boots] == list(range(1, 9))  # one process counted them
    assert boots[-1][1] == boots[1][1], "file descriptors are left behind by a reboot"
    assert result.output.count("EXIT:") == 1
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("OFF", 0, ""),
        ("TRIPLE", 7, "vmm: triple fault on vCPU 0: "),
        ("TRIPLE_ON_SECOND", 7, "vmm: triple fault on vCPU 1: "),
        ("FETCH_NOWHERE", 8, "vmm: error: vCPU 0: KVM_EXIT_INTERNAL_ERROR"),
    ],
)
def test_end(run: Run, how: str, status: int, message: str) -> None:
    result = run("end", cpus="boot=2", defines={"HOW": how})
    assert result.output == "HERE\n"
    assert result.exit is None
    assert result.vmm_status == status, result.stderr
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == bool(message)


def test_what_only_looks_like_an_end(run: Run) -> None:
    result = run("end", defines={"HOW": "NOT_AN_END"})
    assert (result.exit, result.vmm_status, result.stderr) == (3, 0, ""), result
