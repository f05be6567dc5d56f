# SPDX-License-Identifier: Apache-2.0
"""What the tests of the bare-metal guests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vmm_testkit.baremetal import BareMetal, BareMetalResult

HERE = Path(__file__).parent
DEVICES = ["--plugin", str(HERE / "devices.py")]

Run = Callable[..., BareMetalResult]


def guest(name: str, **defines: str | int) -> BareMetal:
    """The guest in ``guests/<name>.c``; compiled once per content."""
    return BareMetal(HERE / "guests" / f"{name}.c", defines=defines)
