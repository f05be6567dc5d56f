# SPDX-License-Identifier: Apache-2.0
"""``machine.memory.window``: host memory that the guest sees and devices do not."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest
from vmm_testkit.virtio_machine import empty_plan

from vmmcore.errors import KvmError, VmmError
from vmmcore.machine.assembly import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine(empty_plan([(0, 1 << 20)]), [])
    try:
        made.build()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("readonly", [True, False])
def test_a_window_is_no_ram(machine: Machine, readonly: bool) -> None:
    rom = mmap.mmap(-1, 8192)
    window = machine.memory.window(0x4000000, rom, readonly)
    with pytest.raises(VmmError):
        machine.memory.view(0x4000000, 1)
    with pytest.raises(KvmError):  # KVM has something there
        machine.memory.add(0x4001000, 4096)
    window.hide()
    machine.memory.add(0x4001000, 4096)
    with pytest.raises(KvmError):
        window.show()
    window.close()
    rom.close()  # nobody holds it


def test_it_cannot_be_where_ram_is(machine: Machine) -> None:
    with pytest.raises(KvmError):
        machine.memory.window(0, mmap.mmap(-1, 4096))
