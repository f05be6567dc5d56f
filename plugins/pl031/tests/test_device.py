# SPDX-License-Identifier: Apache-2.0
"""The clock in a machine without a vCPU: the time, saved state, errors."""

from __future__ import annotations

import time
from typing import Any

import pytest
from vmm_testkit.platform import PlatformRig
from vmmcore.errors import VmmError

from vmm_pl031.device import Pl031

pytestmark = pytest.mark.needs_kvm

DR, MR, LR, IMSC, RIS = 0x000, 0x004, 0x008, 0x010, 0x014


def rig() -> PlatformRig:
    return PlatformRig(Pl031, 0x0901_0000, 8)


def test_it_is_the_host_s_time() -> None:
    with rig() as clock:
        before = int(time.time())
        assert before <= clock.read(DR) <= time.time()


def test_the_guest_s_time_moves_with_it() -> None:
    with rig() as first:
        before = time.time()
        first.write(LR, 1_000_000)
        first.write(MR, 1_000_000)
        first.write(IMSC, 1)
        state = first.device.save()
    with rig() as second:
        second.device.restore(state)
        assert 0 <= second.read(DR) - 1_000_000 <= time.time() - before + 1
        assert (second.read(RIS), second.read(IMSC), second.read(LR)) == (1, 1, 1_000_000)


@pytest.mark.parametrize("change", [{"mr": -1}, {"imsc": 2}, {"ris": 2}, {"match_at": -1}, {"offset": None}, {"lr": 1 << 32}])
def test_unusable_state_is_refused_whole(change: dict[str, Any]) -> None:
    with rig() as clock:
        clock.write(MR, 5)
        with pytest.raises(VmmError, match="pl0310: saved state is not usable"):
            clock.device.restore({**clock.device.save(), "mr": 7, **change})
        assert clock.read(MR) == 5
