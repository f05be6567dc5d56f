# SPDX-License-Identifier: Apache-2.0
"""Virtio devices in Python for the tests of the driver."""

from __future__ import annotations

from vmmcore.virtio import F_ACCESS_PLATFORM, Chain, Queue, VirtioDevice

ECHO = 63


class Echo(VirtioDevice):
    """Gives back what it was given. Queue 0 at once; queue 1 keeps requests until `release()`."""

    virtio_id = ECHO
    queue_sizes = (64, 64, 8, 256)
    config_space = bytes(range(16))
    config_writable = bytes(8) + b"\xff" * 4 + bytes(4)
    device_features = 1 | 2 | 4
    feature_requires = {1: 1 << 0}  # noqa: RUF012

    def configure(self) -> None:
        self.kept: list[Chain] = []
        self.starts = self.stops = self.config_writes = 0
        self.seen: list[bytes] = []

    def start(self) -> None:
        self.starts += 1
        self.active = [queue.index for queue in self.queues if queue.active]

    def stop(self) -> None:
        self.stops += 1
        self.kept.clear()

    def check_features(self, features: int) -> bool:
        return not features & 4 or bool(features & 1)

    def handle(self, queue: Queue) -> None:
        for chain in queue:
            self.seen.append(chain.read())
            if queue.index == 1:
                self.kept.append(chain.keep())
            else:
                chain.write(chain.read())

    def config_written(self) -> None:
        self.config_writes += 1

    def release(self, order: list[int]) -> None:
        """Give back kept requests, in the given order of their arrival."""
        for n in order:
            self.kept[n].write(self.kept[n].read())
            self.kept[n].push()


class Echo2(Echo):
    """The same with every ring feature, and one that fails to start when told."""

    in_order = False

    def start(self) -> None:
        super().start()
        if self.options.get("broken"):
            raise RuntimeError("told to")


class InOrder(Echo):
    in_order = True


__all__ = ["ECHO", "F_ACCESS_PLATFORM", "Echo", "Echo2", "InOrder"]
