# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from baremetal_suite import DEVICES, Run, guest
from vmm_testkit.baremetal import BareMetalResult

from vmmcore.front.check import probe_kvm


@pytest.fixture(scope="session")
def kvm_interprets() -> str:
    """Why this KVM runs only part of the instructions, or an empty text where it runs all."""
    status = probe_kvm()
    return status.reason if status.state == "interpreted" else ""


@pytest.fixture(scope="session")
def run() -> Run:
    """``run(name, *vmm_args, devices=False, defines={}, **keywords of BareMetal.run)``."""

    def start(
        name: str,
        *args: str,
        devices: bool = False,
        defines: dict[str, str | int] | None = None,
        memory: str = "size=64M",
        cpus: str = "boot=1",
        timeout: float = 60.0,
    ) -> BareMetalResult:
        return guest(name, **(defines or {})).run(
            [*(DEVICES if devices else []), *args], memory=memory, cpus=cpus, timeout=timeout
        )

    return start
