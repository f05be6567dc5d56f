# SPDX-License-Identifier: Apache-2.0
"""The port in a machine without a vCPU: saved state, counters, errors."""

from __future__ import annotations

from typing import Any

import pytest
from vmm_testkit.platform import PlatformRig
from vmmcore.errors import VmmError

from vmm_pl011.device import Pl011

pytestmark = pytest.mark.needs_kvm

DR, FR, IBRD, LCR_H, CR, IMSC, RIS = 0x000, 0x018, 0x024, 0x02C, 0x030, 0x038, 0x03C
FEN, LBE, RXE, RX, RT = 0x10, 0x80, 0x200, 0x10, 0x40


def rig() -> PlatformRig:
    return PlatformRig(Pl011, 0x0900_0000, 11, {"host": "null"})


def filled(port: PlatformRig) -> dict[str, Any]:
    """The state of a port with three bytes in its receiver."""
    port.write(LCR_H, 0x60 | FEN)
    port.write(CR, RXE | LBE)  # loopback: bytes for the receiver
    for byte in b"abc":
        port.write(DR, byte)
    port.write(IMSC, RX | RT)
    port.write(IBRD, 26)
    return port.device.save()


def test_state_moves_to_another_device() -> None:
    with rig() as first:
        state = filled(first)
    assert state["rx"] == b"a\0b\0c\0"
    assert state["tx"] == b""
    with rig() as second:
        second.device.restore(state)
        assert second.device.counters()["interrupts"] == 1, "the pending interrupt is raised again"
        assert (second.read(IBRD), second.read(IMSC), second.read(RIS) & RT) == (26, RX | RT, RT)
        assert bytes(second.read(DR) for _ in range(3)) == b"abc"
        assert second.device.save()["rx"] == b""


@pytest.mark.parametrize("change", [{"rx": bytes(65)}, {"lcr_h": 0}, {"rx": 5}, {"ibrd": 1 << 16}, {"imsc": -1}, {"cr": "x"},
                                    {"tx": bytes(33)}, {"rx": b"\0\xff"}])
def test_unusable_state_is_refused_whole(change: dict[str, Any]) -> None:
    with rig() as port:
        state = filled(port)
        port.write(IBRD, 13)
        with pytest.raises(VmmError, match="pl0110: saved state is not usable"):
            port.device.restore({**state, **change})
        assert port.read(IBRD) == 13
        with pytest.raises(VmmError, match="pl0110"):
            port.device.restore({})


def test_output_and_counters() -> None:
    with rig() as port:
        for byte in b"hello":
            assert port.read(FR) & 0xA0 == 0x80
            port.write(DR, byte, 1)
        counters = port.device.counters()
        assert counters["tx_bytes"] == 5
        assert counters["rx_bytes"] == counters["interrupts"] == 0


def test_a_taken_address_is_an_error_that_says_so() -> None:
    with rig() as port:
        second = Pl011(port.machine, "second", {}, {"address": 0x0900_0800, "gsi": 12}, {})
        with pytest.raises(VmmError, match="second: .*exists"):
            second.realize()
