# SPDX-License-Identifier: Apache-2.0
"""A session spread over several labs ends with one line that counts all of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from vmm_testkit.kvm import KvmState
from vmm_testkit.lab import Lab, LabStalled
from vmm_testkit.pytest_plugin import pytest_cmdline_main

TESTS = """
    import pytest

    @pytest.mark.parametrize("n", range(5))
    def test_passes(n): pass

    def test_fails(): assert 1 == 2

    @pytest.mark.skip(reason="not today")
    def test_skips(): pass

    @pytest.mark.xfail
    def test_xfails(): assert 1 == 2

    def test_left_out(): pass

    @pytest.fixture
    def broken():
        yield
        raise ValueError("at the end")

    def test_error(broken): pass
"""


class Labs:
    """In the lab's place: a pytest right here. ``stall_in`` names the lab that stops, after so many lines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stall_in: int = 0) -> None:
        self.outputs: list[str] = []
        self.stall_in = stall_in
        monkeypatch.setattr(Lab, "run", lambda lab, *args, **options: self.run(*args, **options))
        monkeypatch.setattr("vmm_testkit.lab.in_lab", lambda: False)
        monkeypatch.setattr("vmm_testkit.kvm.kvm_state", lambda: KvmState("missing", "for this test"))

    def run(self, command: list[str], *, cwd: str, env: dict[str, str], timeout: float) -> int:
        kill = len(self.outputs) + 1 == self.stall_in
        more = {"STOP_AT": "test_passes[1]"} if kill else {}
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **env, **more}, capture_output=True, text=True, check=False
        )
        self.outputs.append(done.stdout + done.stderr)
        if kill:
            assert done.returncode == 99, done.stdout
            raise LabStalled("the lab printed nothing for 7 s")
        return done.returncode


CONFTEST = """
    import os

    def pytest_runtest_call(item):
        if item.name == os.environ.get("STOP_AT"):
            os._exit(99)
"""
CLOSING = r"\d+ (passed|failed|skipped|deselected)"


def run(pytester: pytest.Pytester, *args: str) -> int | None:
    return pytest_cmdline_main(pytester.parseconfig("--lab", "-p", "no:rerunfailures", *args))


def test_one_closing_line_for_all_labs(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytester.makepyfile(TESTS)
    labs = Labs(monkeypatch)
    assert run(pytester, "--lab-tests=4", "-q", "-k", "not left_out") == pytest.ExitCode.TESTS_FAILED
    assert len(labs.outputs) == 3  # of nine tests, the last lab runs one
    assert not any(re.search(CLOSING, output) for output in labs.outputs)
    expected = r"1 failed, 6 passed, 1 skipped, 1 deselected, 1 xfailed, 1 error in \d+\.\d\ds\n"
    assert re.fullmatch(expected, capfd.readouterr().out)


@pytest.mark.parametrize(("most", "labs"), [(5, 1), (4, 2), (0, 1)])
def test_no_lab_for_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], most: int, labs: int
) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_passes(n): pass")
    pretend = Labs(monkeypatch)
    assert run(pytester, f"--lab-tests={most}", "--lab-retries=1") == 0
    assert len(pretend.outputs) == labs
    assert re.fullmatch(r"=+ 5 passed in \d+\.\d\ds =+\n", capfd.readouterr().out)


def test_a_lab_that_stops_costs_one_try_and_no_count(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_passes(n): pass")
    pytester.makeconftest(CONFTEST)
    labs = Labs(monkeypatch, stall_in=1)
    assert run(pytester, "--lab-retries=1", "-v") == 0
    assert "test_passes[0]" not in labs.outputs[1]
    assert "test_passes[1] PASSED" in labs.outputs[1]
    said = capfd.readouterr().out.strip().splitlines()
    assert said[:2] == ["--lab: the lab printed nothing for 7 s", "--lab: going on in another (0 times more)"]
    assert re.fullmatch(r"=+ 5 passed in .*", said[2])


@pytest.mark.parametrize(
    ("args", "status", "closing", "labs"),
    [
        (["-x"], 1, "1 failed", 1),
        (["--collect-only"], 0, "no tests ran", 1),
        (["-k", "nothing"], 5, "3 deselected", 1),
        (["no-such-file.py"], 4, "no tests ran", 1),
    ],
)
def test_ends_as_one_session_would(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    args: list[str],
    status: int,
    closing: str,
    labs: int,
) -> None:
    pytester.makepyfile("def test_1(): assert 1 == 2\ndef test_2(): pass\ndef test_3(): pass")
    pretend = Labs(monkeypatch)
    assert run(pytester, "--lab-tests=1", *args) == status
    assert len(pretend.outputs) == labs
    assert f"= {closing} in" in capfd.readouterr().out


def test_a_rerun_counts_as_one(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pytest_rerunfailures", reason="pip install pytest-rerunfailures")
    pytester.makepyfile(
        """
        from pathlib import Path

        def test_second_time():
            mark = Path("mark")
            ran = mark.exists()
            mark.touch()
            assert ran

        def test_passes(): pass
        """
    )
    Labs(monkeypatch)
    assert pytest_cmdline_main(pytester.parseconfig("--lab", "--lab-tests=1", "--reruns=2")) == 0
    assert "2 passed, 1 rerun in" in capfd.readouterr().out


def test_a_pytest_inside_a_test_is_no_part_of_the_session(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import os\ndef test_env(): assert not [n for n in os.environ if n.startswith('VMM_LAB_')]")
    record = pytester.path / "record"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        env={**os.environ, "VMM_LAB_RECORD": str(record), "VMM_LAB_TESTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert record.read_text().endswith("]\n")
