# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from vmm_testkit.kvm import KvmState
from vmm_testkit.lab import Lab, LabStalled
from vmm_testkit.pytest_plugin import pytest_cmdline_main, without_lab_options

PRETEND = """
    import pytest
    from vmm_testkit import kvm

    @pytest.fixture(autouse=True, scope="session")
    def pretend():
        pass

    kvm.kvm_state = lambda: kvm.KvmState("{state}", "the reason")
"""
MARKED = """
    import pytest

    @pytest.mark.linux_guest
    def test_linux(): pass

    @pytest.mark.needs_kvm
    def test_tiny(): pass
"""


@pytest.mark.parametrize(
    ("state", "passed", "skipped"),
    [("usable", 2, 0), ("interpreted", 1, 1), ("missing", 0, 2), ("denied", 0, 2)],
)
def test_markers_skip_by_what_kvm_can_do(
    pytester: pytest.Pytester, state: str, passed: int, skipped: int
) -> None:
    pytester.makeconftest(PRETEND.format(state=state))
    pytester.makepyfile(MARKED)
    result = pytester.runpytest_subprocess("-rs", "--strict-markers")
    result.assert_outcomes(passed=passed, skipped=skipped)
    if skipped:
        result.stdout.fnmatch_lines([f"*here it is {state}: the reason; run with --lab*"])


def test_console_of_a_failed_guest_is_reported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it(debian_guest):
            code = "import sys, time; print('words of the guest'); sys.stderr.write('words of the VMM')"
            debian_guest(kernel="k", initramfs="i", argv=[sys.executable, "-c", code])
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*console of guest 1*", "words of the guest", "*VMM of guest 1*", "words of the VMM"]
    )


def test_arguments_without_the_labs() -> None:
    args = [
        "--lab",
        "-k",
        "x",
        "--lab-memory",
        "1",
        "--lab-cpus=2",
        "--lab-out",
        "d",
        "--lab-timeout=3",
        "--lab-stall=9",
        "--lab-retries",
        "2",
        "--lab-tests=4",
        "--lab-drive",
        "data=disk.img",
        "--lab-arch=aarch64",
        "--soak",
        "tests",
    ]
    assert without_lab_options(args) == ["-k", "x", "--soak", "tests"]


def test_tests_of_another_architecture_are_skipped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import platform, pytest

        @pytest.mark.arch(platform.machine(), reason="why not")
        def test_here(): pass

        @pytest.mark.arch("sparc", reason="it has windows")
        def test_there(): pass
        """
    )
    result = pytester.runpytest_subprocess("-rs", "--strict-markers")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*only for sparc: it has windows"])


@pytest.mark.parametrize(("args", "number"), [([], 3), (["--soak"], 200)])
def test_soak_chooses_the_long_number(pytester: pytest.Pytester, args: list[str], number: int) -> None:
    pytester.makepyfile(f"def test_it(soak): assert soak(3, 200) == {number}")
    pytester.runpytest_subprocess(*args).assert_outcomes(passed=1)


def test_a_bad_lab_drive_is_a_usage_error(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmm_testkit.lab.in_lab", lambda: False)
    monkeypatch.setattr("vmm_testkit.kvm.kvm_state", lambda: KvmState("missing", "for this test"))
    with pytest.raises(pytest.UsageError, match="--lab-drive disk: write it as NAME=FILE"):
        pytest_cmdline_main(pytester.parseconfig("--lab", "--lab-drive=disk"))


@pytest.mark.parametrize(("stalls", "retries", "status"), [(0, 0, 3), (1, 1, 3), (2, 2, 3), (1, 0, None), (3, 2, None)])
def test_a_stalled_lab_is_started_again(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, stalls: int,
                                        retries: int, status: int | None) -> None:
    runs = []

    def run(self: Lab, *args: object, **options: object) -> int:
        runs.append(self.stall_timeout)
        if len(runs) <= stalls:
            raise LabStalled("the lab printed nothing for 7 s")
        return 3

    monkeypatch.setattr(Lab, "run", run)
    monkeypatch.setattr("vmm_testkit.lab.in_lab", lambda: False)
    monkeypatch.setattr("vmm_testkit.kvm.kvm_state", lambda: KvmState("missing", "for this test"))
    config = pytester.parseconfig("--lab", "--lab-stall", "7", f"--lab-retries={retries}")
    if status is None:
        with pytest.raises(pytest.UsageError, match="printed nothing for 7 s"):
            pytest_cmdline_main(config)
    else:
        assert pytest_cmdline_main(config) == status
    assert runs == [7.0] * min(stalls + 1, retries + 1)


@pytest.mark.busybox
def test_a_session_in_the_lab(pytester: pytest.Pytester, qemu: str) -> None:
    if os.environ.get("VMM_IN_LAB"):
        pytest.skip("this is the lab: it is tested from outside")
    pytester.makepyfile(
        """
        import os

        def test_inside(request):
            assert os.environ.get("VMM_IN_LAB") == "1"

        def test_fails():
            assert 1 == 2
        """
    )
    pytester.makeconftest(
        "import os\nfrom vmm_testkit import kvm\n"
        "if not os.environ.get('VMM_IN_LAB'): kvm.kvm_state = lambda: kvm.KvmState('missing', '')"
    )
    result = pytester.runpytest_subprocess("--lab", "--lab-cpus", "1", "-v")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*test_inside PASSED*", "*test_fails FAILED*", "*1 failed, 1 passed*"])
