# SPDX-License-Identifier: Apache-2.0
"""Each guest in ``guests/`` under the real ``vmm run``: what it checks is in its own comments."""

from __future__ import annotations

import pytest
from baremetal_suite import Run

pytestmark = pytest.mark.needs_kvm


@pytest.mark.parametrize("cpus", [2, 4])
def test_smp(run: Run, cpus: int) -> None:
    run("smp", cpus=f"boot={cpus}", defines={"CPUS": cpus}).check()


@pytest.mark.parametrize("name", ["pio", "mmio", "pci_config"])
def test_devices(run: Run, name: str) -> None:
    run(name, devices=True).check()


def test_msix(run: Run) -> None:
    run("msix", devices=True, cpus="boot=2", defines={"CPUS": 2}).check()


def test_bars(run: Run) -> None:
    run("bars", devices=True, cpus="boot=2", defines={"ROUNDS": 300}).check()
