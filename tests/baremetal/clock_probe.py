# SPDX-License-Identifier: Apache-2.0
"""The device that guests/clock.c talks to; in a file of its own, for the runner imports it."""

from __future__ import annotations

from vmmcore import Device


class Probe(Device):
    """Counts the pauses that the guest has seen, and says which is the last one."""

    operations = ("finish",)

    def realize(self) -> None:
        self.seen, self.last = -1, 0
        self.machine.pio.add(0x510, 4, write=self.count)
        self.machine.pio.add(0x514, 4, read=lambda offset, size: self.last)

    def count(self, offset: int, size: int, value: int) -> None:
        self.seen = value

    def finish(self) -> None:
        self.last = 1

    def counters(self) -> dict[str, int]:
        return {"seen": self.seen + 1}
