# SPDX-License-Identifier: Apache-2.0
"""guests/exceptions.c: one run, one test per exception."""

from __future__ import annotations

import re

import pytest
from conftest import Run

from vmm_testkit.baremetal import BareMetalResult

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


@pytest.fixture(scope="module")
def outcome(run: Run, kvm_interprets: str) -> BareMetalResult:
    wanted = [n for n, case in enumerate(CASES) if not (kvm_interprets and case in NOT_INTERPRETED)]
    return run("exceptions", defines={"CASES": hex(sum(1 << n for n in wanted))})


@pytest.mark.parametrize("case", CASES)
def test_exception(outcome: BareMetalResult, kvm_interprets: str, case: str) -> None:
    if kvm_interprets and case in NOT_INTERPRETED:
        pytest.skip(f"{NOT_INTERPRETED[case]} ({kvm_interprets}); run in the lab: --lab")
    found = re.search(rf"^CASE {case} (\w+)$", outcome.output, re.MULTILINE)
    assert found is not None, outcome
    assert found[1] == "ok", outcome.output


def test_the_guest_ends_well(outcome: BareMetalResult) -> None:
    outcome.check()
