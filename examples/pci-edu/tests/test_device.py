# SPDX-License-Identifier: Apache-2.0
"""The registers, one access at a time, in a machine without a vCPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from edu_rig import Rig
from vmmcore.errors import UserError

from vmm_pci_edu.device import Regs, factorial
from vmm_pci_edu.plugin import EduOptions

pytestmark = pytest.mark.needs_kvm
Make = Callable[..., Rig]


def dma(rig: Rig, source: int, target: int, count: int, command: int) -> None:
    for offset, value in ((0x80, source), (0x88, target), (0x90, count), (0x98, command)):
        rig.write(offset, value, 8)


def test_identity(rig: Make) -> None:
    edu = rig()
    assert (edu.pci.read(0, 4), edu.pci.read(8, 4)) == (0x11E8_1234, 0x00FF_0010)
    assert edu.pci.read(0x3D, 1) == 1  # INTA
    assert edu.read(0) == 0x0100_00ED


def test_liveness(rig: Make) -> None:
    edu = rig()
    edu.write(4, 0x1234_00FF)
    assert edu.read(4) == 0xEDCB_FF00


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 2), (0, 8), (4, 8), (0x80, 2), (0x98, 1), (0x1000, 4)])
def test_other_sizes_and_places_are_ones(rig: Make, offset: int, size: int) -> None:
    edu = rig()
    edu.write(offset, 0, size)
    assert edu.read(offset, size) == (1 << 8 * size) - 1
    assert (edu.read(0), edu.read(4)) == (0x0100_00ED, 0)


@pytest.mark.parametrize("n", [0, 1, 5, 12, 13, 33, 34, 1000, 0xFFFF_FFFF])
def test_factorial(rig: Make, n: int) -> None:
    edu = rig()
    edu.write(8, n)
    assert edu.read(0x20) == 1  # computing
    edu.write(8, 3)  # not taken: one at a time
    edu.pump()
    assert edu.read(0x20) == 0
    assert edu.read(8) == (math.factorial(n) & 0xFFFF_FFFF if n < 2000 else 0)
    assert edu.read(0x24) == 0
    assert edu.device.counters()["factorials"] == 1


def test_factorial_of_small_numbers() -> None:
    assert [factorial(n) for n in range(40)] == [math.factorial(n) & 0xFFFF_FFFF for n in range(40)]


def test_status_has_one_writable_bit(rig: Make) -> None:
    edu = rig()
    edu.write(0x20, 0xFFFF_FFFF)
    assert edu.read(0x20) == 0x80


def test_interrupt_of_the_factorial(rig: Make) -> None:
    edu = rig()
    edu.write(0x20, 0x80)
    edu.write(8, 4)
    edu.pump()
    assert (edu.read(0x24), edu.read(8), edu.read(0x20)) == (1, 24, 0x80)


def test_raise_and_acknowledge(rig: Make) -> None:
    edu = rig()

    def pending() -> bool:
        return bool(edu.pci.read(6, 2) & 8)  # PCI status: interrupt status

    edu.write(0x60, 0)
    assert not pending()
    edu.write(0x60, 0x5)
    edu.write(0x60, 0x2)
    assert edu.read(0x24) == 7
    assert pending()
    edu.write(0x64, 0x6)
    assert edu.read(0x24) == 1
    assert pending()
    edu.write(0x64, 0xFFFF_FFFF)
    assert edu.read(0x24) == 0
    assert not pending()


def test_dma_both_ways(rig: Make) -> None:
    edu = rig()
    data = bytes(range(256)) * 16
    edu.memory.write(0x10_0000, data)
    dma(edu, 0x10_0000, 0x40000, 4096, 1)
    assert edu.read(0x98, 8) == 1  # running
    edu.write(0x80, 77, 8)  # its registers are held meanwhile
    edu.write(0x98, 0, 8)
    edu.pump()
    assert (edu.read(0x98, 8), edu.read(0x80, 8), edu.read(0x24)) == (0, 0x10_0000, 0)
    dma(edu, 0x40000 + 100, 0x20_0001, 50, 1 | 2 | 4)
    edu.pump()
    assert edu.memory.read(0x20_0001, 50) == data[100:150]
    assert edu.memory.read(0x20_0000, 1) + edu.memory.read(0x20_0033, 1) == b"\0\0"
    assert edu.read(0x24) == 0x100
    assert edu.device.counters()["transfers"] == 2


def test_registers_in_halves(rig: Make) -> None:
    edu = rig()
    edu.write(0x84, 0x1122_3344)
    edu.write(0x80, 0x5566_7788)
    assert edu.read(0x80, 8) == 0x1122_3344_5566_7788


@pytest.mark.parametrize(
    ("source", "target", "count", "command"),
    [(0, 0x40000, 4097, 1), (0, 0x40001, 4096, 1), (0, 0x3FFFF, 1, 1), (0, 0x41000, 1, 1),
     (0, 0x40000, (1 << 64) - 1, 1), (0x40000, (8 << 20) - 1, 2, 3), (0, (1 << 64) - 1, 2, 1)],
)  # fmt: skip
def test_dma_outside_does_nothing(rig: Make, source: int, target: int, count: int, command: int) -> None:
    edu = rig()
    edu.memory.write(0, b"x" * 8192)
    dma(edu, source, target, count, command | 4)
    edu.pump()
    assert edu.device.counters()["dma_errors"] == 1
    assert not any(edu.device.buffer)
    assert (edu.read(0x98, 8) & 1, edu.read(0x24)) == (0, 0x100)  # the driver is told that it is over


def test_addresses_have_28_bits_unless_told_otherwise(rig: Make) -> None:
    for options, found in (("", b"low!"), ("dma_mask=0xffffffffff", b"high")):
        edu = rig(options)
        edu.memory.write(0, b"low!")
        edu.memory.write(1 << 32, b"high")
        dma(edu, 1 << 32, 0x40000, 4, 1)
        edu.pump()
        assert bytes(edu.device.buffer[:4]) == found


def test_a_pause_finishes_what_runs_and_a_restore_takes_it_up(rig: Make) -> None:
    edu, other = rig(), rig()
    edu.memory.write(0, b"data")
    edu.write(0x20, 0x80)
    edu.write(8, 5)
    dma(edu, 0, 0x40000, 4, 1)
    edu.device.pause()
    state = edu.device._save()
    other.device._restore(state)
    assert (other.read(8), other.read(0x20), other.read(0x24)) == (120, 0x80, 1)
    assert bytes(other.device.buffer[:4]) == b"data"
    assert other.pci.read(6, 2) & 8


@pytest.mark.parametrize("text", ["dma_mask=-1", "dma_mask=0x10000000000000000", "mask=1", "dma_mask=x"])
def test_a_bad_option_is_named_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match="--plugin pci-edu") as caught:
        EduOptions.parse(text, "--plugin pci-edu")
    assert "\n" not in str(caught.value)


def test_the_readme_has_the_registers() -> None:
    assert Regs.table() in (Path(__file__).parents[1] / "README.md").read_text()
