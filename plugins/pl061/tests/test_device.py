# SPDX-License-Identifier: Apache-2.0
"""The power button in a machine without a vCPU: a press, saved state, errors."""

from __future__ import annotations

import time
from typing import Any

import pytest
from vmm_testkit.platform import PlatformRig
from vmmcore.errors import VmmError

from vmm_pl061.device import Pl061

pytestmark = pytest.mark.needs_kvm

DIR, IBE, IE, RIS, MIS, IC = 0x400, 0x408, 0x410, 0x414, 0x418, 0x41C
BUTTON = 8
DATA = BUTTON << 2


def rig() -> PlatformRig:
    return PlatformRig(Pl061, 0x0902_0000, 9)


def press(lines: PlatformRig) -> None:
    assert isinstance(lines.device, Pl061)
    lines.device.power_button()


def test_a_press_is_down_and_up_again() -> None:
    with rig() as lines:
        lines.write(IBE, BUTTON)
        lines.write(IE, BUTTON)
        press(lines)
        assert lines.read(MIS) == BUTTON
        lines.write(IC, BUTTON)
        assert lines.read(DATA) == BUTTON
        deadline = time.monotonic() + 10
        while not lines.read(MIS):
            assert time.monotonic() < deadline, "it is never let go of"
        assert lines.read(DATA) == 0


def test_state_moves_to_another_device() -> None:
    with rig() as first:
        first.write(DIR, 0xF0)
        first.write(0x3FC, 0x50)
        first.write(IE, BUTTON)
        first.write(IBE, BUTTON)
        press(first)
        state = first.device.save()
    with rig() as second:
        second.device.restore(state)
        assert (second.read(DIR), second.read(0x3FC), second.read(MIS)) == (0xF0, 0x50 | BUTTON, BUTTON)


@pytest.mark.parametrize("change", [{"in": 0xFF}, {"dir": 256}, {"ie": -1}, {"edges": "x"}])
def test_unusable_state_is_refused_whole(change: dict[str, Any]) -> None:
    with rig() as lines:
        lines.write(DIR, 1)
        with pytest.raises(VmmError, match="pl0610: saved state is not usable"):
            lines.device.restore({**lines.device.save(), "dir": 2, **change})
        assert lines.read(DIR) == 1
