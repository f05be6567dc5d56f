# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os

import pytest

from vmm_testkit.pytest_plugin import without_lab_options

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
        "tests",
    ]
    assert without_lab_options(args) == ["-k", "x", "tests"]


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
