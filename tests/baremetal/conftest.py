# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.baremetal import BareMetal, BareMetalResult

from vmmcore.front.check import probe_kvm

HERE = Path(__file__).parent
DEVICES = ["--plugin", str(HERE / "devices.py")]

Run = Callable[..., BareMetalResult]


def guest(name: str, **defines: str | int) -> BareMetal:
    """The guest in ``guests/<name>.c``; compiled once per content."""
    return BareMetal(HERE / "guests" / f"{name}.c", defines=defines)


@pytest.fixture(scope="session")
def kvm_interprets() -> str:
    """Why this KVM runs only part of the instructions, or an empty text where it runs all."""
    status = probe_kvm()
    return status.reason if status.state == "interpreted" else ""


@pytest.fixture(scope="session")
def run(kvm_interprets: str) -> Run:
    """``run(name, *vmm_args, devices=False, defines={}, **keywords of BareMetal.run)``.

    The guests get ``INTERPRETED`` (0 or 1), so that they can leave out what such a KVM has not.
    """

    def start(
        name: str, *args: str, devices: bool = False, defines: dict[str, str | int] | None = None, **keywords: str
    ) -> BareMetalResult:
        elf = guest(name, INTERPRETED=int(bool(kvm_interprets)), **(defines or {}))
        return elf.run([*(DEVICES if devices else []), *args], **keywords)  # type: ignore[arg-type]

    return start
