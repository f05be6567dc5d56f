# SPDX-License-Identifier: Apache-2.0
"""Fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from edu_rig import Rig


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    """``rig(options)``: a machine with ``--plugin pci-edu,options``."""
    made: list[Rig] = []

    def make(options: str = "") -> Rig:
        made.append(Rig(options))
        return made[-1]

    yield make
    for one in made:
        one.machine.close()
