# SPDX-License-Identifier: Apache-2.0
"""What the machine counts of its vCPUs and queues."""

from __future__ import annotations

from typing import Any

import pytest

from vmmcore import VirtioDevice, Vm, VmConfig

baremetal = pytest.importorskip("vmm_testkit.baremetal", reason="needs the testkit: pip install vmm-testkit")
from vmm_testkit.virtio import VirtioDriver  # noqa: E402

pytestmark = pytest.mark.needs_kvm

FOREVER = '#include "guest.h"\nint main(struct hvm_start_info *si) { (void)si; outb(0x80, 1); for (;;) pause(); }'


class Echo(VirtioDevice):
    """Answers with what it was sent."""

    virtio_id = 63
    queue_sizes = (16, 16)

    def handle(self, queue: Any) -> None:
        for chain in queue:
            chain.write(chain.read())

    def counters(self) -> dict[str, int]:
        return {"own": 7}


def test_vcpus_of_a_guest_that_never_exits() -> None:
    with Vm(VmConfig(kernel=baremetal.BareMetal(FOREVER).build(), memory="32M", cpus="boot=1,max=2")) as vm:
        vm.boot()
        first = vm.counters()
        assert set(first) >= {"vcpu0", "irq"}
        assert "vcpu1" not in first
        while (now := vm.counters()["vcpu0"])["pio"] == 0 or now["cpu_ns"] <= first["vcpu0"]["cpu_ns"]:
            pass
        vm.pause()
        paused = vm.counters()["vcpu0"]
        assert paused.get("kvm_exits", 1) >= 1
        assert vm.counters()["vcpu0"]["cpu_ns"] == paused["cpu_ns"], "a vCPU that stands uses no CPU"


@pytest.mark.parametrize("packed", [False, True])
def test_queues(packed: bool) -> None:
    with VirtioDriver(Echo, options={"packed": packed}) as driver:
        assert driver.machine.counters()[driver.device.id] == {"own": 7}, "no queue has been used"
        driver.start()
        for _ in range(3):
            driver.request(0, out=[b"hello"], in_=[64])
        seen = driver.machine.counters()[driver.device.id]
        assert seen["own"] == 7
        assert (seen["queue0_requests"], seen["queue0_out_bytes"], seen["queue0_in_bytes"]) == (3, 15, 15)
        assert 1 <= seen["queue0_interrupts"] <= 3
        assert 1 <= seen["queue0_kicks"] <= 4
        assert seen["queue1_requests"] == 0
        driver.reset()
        assert driver.machine.counters()[driver.device.id]["queue0_requests"] == 3, "a reset of the device is no reboot"
