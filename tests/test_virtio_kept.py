# SPDX-License-Identifier: Apache-2.0
"""Requests that a device in Python keeps survive a pause, seen by a driver."""

from __future__ import annotations

import pytest
from vmm_testkit.virtio import VirtioDriver

from vmmcore.virtio import Chain, Queue, VirtioDevice


class Keeper(VirtioDevice):
    virtio_id = 63
    queue_sizes = (8,)

    def configure(self) -> None:
        self.kept: list[Chain] = []

    def stop(self) -> None:
        self.kept = []

    def handle(self, queue: Queue) -> None:
        self.kept += [chain.keep() for chain in queue]


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("before", [0, 6], ids=["start", "wrap"])
def test_kept_requests_come_again_after_a_pause(packed: bool, before: int) -> None:
    with VirtioDriver(Keeper, options={"packed": packed}) as driver:
        driver.start()
        for _ in range(before):
            token = driver.submit(0, out=[b""], in_=[1])
            driver.kick(0)
            driver.settle()
            driver.device.kept.pop().push()
            driver.wait(0, token)
        tokens = [driver.submit(0, out=[bytes([n])], in_=[8]) for n in range(4)]
        driver.kick(0)
        driver.settle()
        driver.device.kept[1].push(1)
        driver.device._enter("paused")
        driver.device._enter("activated")
        driver.settle()
        # 0 was kept while 1 was given back: it cannot go back into the ring, so the driver has it, empty
        assert [chain.read() for chain in driver.device.kept] == [b"\2", b"\3"]
        for chain in driver.device.kept:
            chain.write(b"ok")
            chain.push()
        assert [driver.wait(0, token).length for token in tokens] == [0, 1, 2, 2]
