# SPDX-License-Identifier: Apache-2.0
"""A guest on bare metal, and a Debian guest with its i6300esb driver, that stop feeding their watchdog."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from vmm_testkit.baremetal import BareMetal
from vmm_testkit.guest import DebianGuest
from vmm_testkit.kernels import Kernel, debian_kernel


@pytest.fixture(scope="session")
def standard_kernel() -> Kernel:
    """Debian's cloud kernel has no driver for it."""
    return debian_kernel("standard")


VIRTIO = r"""
#include "virtio.h"
static u8 ring[3 * 4096] __attribute__((aligned(4096)));
static u8 answer;

int main(struct hvm_start_info *si) {
  (void)si;
  struct virtio dev;
  struct virtq q;
  CHECK(virtio_find(&dev, 35), "no device, %d", 35);
  CHECK(virtio_negotiate(&dev, 0), "features refused, offered %lx", virtio_offered(&dev));
  CHECK(virtq_setup(&dev, &q, 0, 8, ring), "no queue, %d", 0);
  virtio_driver_ok(&dev);
  struct virtq_piece pieces[] = {{&answer, 1, 1}};
  for (int i = 0; i < 3; i++) CHECK(virtq_request(&q, pieces, 1) == 1 && answer == 1, "answer: %d", answer);
  for (;;) __asm__ volatile("pause");
}
"""

@pytest.mark.needs_kvm
def test_a_guest_that_hangs_is_reset() -> None:
    from vmmcore import DeviceConfig, Vm, VmConfig

    elf = str(BareMetal(VIRTIO).build())
    config = VmConfig(kernel=elf, memory="32M", devices=[DeviceConfig("watchdog", "timeout=1"),
                                                         DeviceConfig("serial", "null")])
    with Vm(config) as vm:
        seen: list[str] = []
        vm.on_event(lambda event, data: seen.append(event))
        vm.boot()
        for event, data in vm.events(30):
            if event == "watchdog-expired":
                assert data == {"device": "watchdog0"}
            if seen.count("rebooted") == 2:  # and the next machine's works too
                break
        assert seen.index("watchdog-expired") < seen.index("rebooted")
        assert vm.info()["state"] == "running"


@pytest.mark.linux_guest
def test_stock_kernel_is_reset_when_nobody_feeds_its_watchdog(
    debian_guest: Callable[..., DebianGuest], standard_kernel: Kernel
) -> None:
    guest = debian_guest("--watchdog", "model=i6300esb", kernel=standard_kernel, modules=["i6300esb heartbeat=3"])
    assert "i6300ESB" in guest.check("cat /sys/class/watchdog/watchdog0/identity")
    guest.check("exec 3>/dev/watchdog; for i in 1 2 3 4 5; do sleep 0.8; echo 1 >&3; done; echo V >&3")
    guest.check("sleep 4")  # it was closed as it should be: off
    guest.check("echo > /mark")
    guest.begin("exec 3>/dev/watchdog; sleep 1000")
    guest.wait_ready(120)
    assert guest.run("test -e /mark").status != 0
    assert "watchdog" in guest.stderr
    assert guest.poweroff() == 0, guest.stderr
