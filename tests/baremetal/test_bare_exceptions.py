# SPDX-License-Identifier: Apache-2.0
"""guests/exceptions.c: one run, one test per exception."""

from __future__ import annotations

import re

import pytest
from baremetal_suite import Run
from vmm_testkit.baremetal import BareMetalResult
from vmm_testkit.lab import in_lab

pytestmark = pytest.mark.needs_kvm

# In the order of the guest's table.
CASES = ["ud", "de", "gp", "gp-selector", "np", "ss", "pf", "pf-nx", "pf-reserved", "nested",
         "bp", "db-step", "db-watch", "nm", "df", "int-n"]  # fmt: skip
#: What a KVM that interprets kernel code cannot do, and why.
NOT_INTERPRETED = {
    "bp": "its interpreter has no int3",
    "db-watch": "its interpreter ignores data breakpoints",
    "int-n": "its interpreter has no int n",
}
#: What the lab's emulated CPU does otherwise than the manual (QEMU's TCG; no VMM has a part in it).
NOT_EMULATED = {
    "ss": "QEMU raises #GP for a non-canonical stack address",
    "pf-reserved": "QEMU leaves the P bit out of a reserved-bit fault's error code",
}


def missing(case: str, kvm_interprets: str) -> str:
    """Why `case` cannot be run here, or an empty text."""
    if kvm_interprets and case in NOT_INTERPRETED:
        return f"{NOT_INTERPRETED[case]} ({kvm_interprets}); run with --lab"
    if in_lab() and case in NOT_EMULATED:
        return f"{NOT_EMULATED[case]}; run outside of the lab"
    return ""


@pytest.fixture(scope="module")
def outcome(run: Run, kvm_interprets: str) -> BareMetalResult:
    wanted = [n for n, case in enumerate(CASES) if not missing(case, kvm_interprets)]
    return run("exceptions", defines={"CASES": hex(sum(1 << n for n in wanted))})


@pytest.mark.parametrize("case", CASES)
def test_exception(outcome: BareMetalResult, kvm_interprets: str, case: str) -> None:
    if why := missing(case, kvm_interprets):
        pytest.skip(why)
    found = re.search(rf"^CASE {case} (\w+)$", outcome.output, re.MULTILINE)
    assert found is not None, outcome
    assert found[1] == "ok", outcome.output


def test_the_guest_ends_well(outcome: BareMetalResult) -> None:
    outcome.check()
