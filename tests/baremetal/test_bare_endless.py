# SPDX-License-Identifier: Apache-2.0
"""A driver that never stops asking: the VM can be looked at, paused and changed all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmm_testkit.baremetal import BareMetal

from vmmcore import DeviceConfig, Vm, VmConfig

pytestmark = pytest.mark.needs_kvm

# Half the ring's requests are there at all times: what the device has written to is made available again at once,
# before it is given back. It kicks only when nothing happens for a while.
GREEDY = """
#include "virtio.h"
enum { REQUESTS = 32, SIZE = 64, NEXT = 1, WRITE = 2 };
static u8 ring[3 * 4096] __attribute__((aligned(4096)));
static u64 word = 0x0123456789abcdef;
static volatile u64 reply[REQUESTS][2048]; /* 16 KiB each, so that a device has something to do */

int main(struct hvm_start_info *si) {
  (void)si;
  struct virtio dev;
  struct virtq q;
  CHECK(virtio_find(&dev, TYPE), "no device, common configuration at %lx", dev.common);
  CHECK(virtio_negotiate(&dev, 0), "features refused, offered %lx", virtio_offered(&dev));
  CHECK(virtq_setup(&dev, &q, 0, SIZE, ring), "no queue of %d", SIZE);
  for (u16 i = 0; i < REQUESTS; i++) {
    q.desc[2 * i] = (struct virtq_desc){(u64)&word, sizeof word, NEXT, (u16)(2 * i + 1)};
    q.desc[2 * i + 1] = (struct virtq_desc){(u64)reply[i], sizeof reply[i], WRITE, 0};
  }
  for (u16 i = 0; i < SIZE; i++) q.avail[2 + i] = i % REQUESTS * 2;
  virtio_driver_ok(&dev);
  for (u16 n = 0;; n++) {
    q.avail[1] = n + REQUESTS;
    for (u32 idle = 0; !reply[n % REQUESTS][0]; idle++)
      if (idle % 4096 == 4095) mmio_write16(q.notify, q.index);
    reply[n % REQUESTS][0] = 0;
  }
}
"""


# A device that takes longer than its driver, whatever the machine.
SLOW = """
from vmmcore.virtio import VirtioDevice

class Slow(VirtioDevice):
    virtio_id = 63
    queue_sizes = (64,)

    def handle(self, queue):
        for chain in queue:
            sum(range(100000))
            chain.write(chain.read())
"""


@pytest.mark.parametrize("type", [63, 4], ids=["in Python", "in C"])
def test_a_driver_that_never_stops_asking(tmp_path: Path, type: int) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    option = (DeviceConfig("--plugin", f"{tmp_path}/slow.py,id=busy") if type == 63 else
              DeviceConfig("rng", "src=/dev/urandom,id=busy"))
    kernel = BareMetal(GREEDY, name="greedy.c", defines={"TYPE": str(type)}).build()
    with Vm(VmConfig(kernel=kernel, memory="32M", devices=[option])) as vm:
        vm.boot()
        before = 0
        for _ in range(5):
            while (now := vm.counters()["busy"].get("queue0_requests", 0)) < before + 100:
                pass
            before = now
            assert vm.info(timeout=30)["state"] == "running"
            vm.pause()
            vm.resume()
        assert vm.remove_device("busy", force=True) == "removed"
        assert "busy" not in [device["id"] for device in vm.devices()]
