# SPDX-License-Identifier: Apache-2.0
"""The runner's half of pvpanic. Registers: QEMU's docs/specs/pvpanic.rst."""

from __future__ import annotations

from vmmcore.device import PciDevice

PANICKED = 1 << 0  # the guest's kernel is dead
CRASH_LOADED = 1 << 1  # it panicked, and a crash kernel takes over

EVENT_PANIC = 3  # VMM_EVENT_PANIC of vmmcore.h


class Pvpanic(PciDevice):
    """One byte in BAR 0: a read says which events are known, a write announces one."""

    vendor_id = 0x1B36
    device_id = 0x0011
    class_code = 0x088000  # base system peripheral, other
    revision = 1

    def realize(self) -> None:
        self.panics = self.crashes = 0
        self.add_bar(0, 4096, self.read, self.write)

    def read(self, offset: int, size: int) -> int:
        return PANICKED | CRASH_LOADED if offset == 0 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and value & PANICKED:
            self.panics += 1
            self.machine.post_event(EVENT_PANIC, value & 0xFF)
        elif offset == 0 and value & CRASH_LOADED:
            self.crashes += 1

    def counters(self) -> dict[str, int]:
        return {"panics": self.panics, "crashes_handled": self.crashes}
