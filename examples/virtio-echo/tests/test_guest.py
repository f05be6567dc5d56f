# SPDX-License-Identifier: Apache-2.0
"""A real guest: a virtio driver on a vCPU, with the device in `vmm run`."""

from __future__ import annotations

import pytest
from vmm_testkit.baremetal import BareMetal

pytestmark = pytest.mark.needs_kvm

GUEST = """
#include "virtio.h"
static u8 ring[3 * 4096] __attribute__((aligned(4096)));
static u8 text[5000], reply[6000];

int main(struct hvm_start_info *si) {
  (void)si;
  struct virtio dev;
  struct virtq q;
  CHECK(virtio_find(&dev, 63), "no device, common configuration at %lx", dev.common);
  for (u32 i = 0; i < sizeof text; i++) text[i] = (u8)(i * 31);
  for (int round = 0; round < 3; round++) {
    CHECK(virtio_negotiate(&dev, 0), "features refused, offered %lx", virtio_offered(&dev));
    CHECK(virtq_setup(&dev, &q, 0, 64, ring), "no queue, round %d", round);
    CHECK(q.size == 64, "size %d", q.size);
    virtio_driver_ok(&dev);
    for (u32 n = 0; n < 70; n++) { /* more than once round the ring */
      u32 length = n == 69 ? 4900 : 1 + n * 3;
      memset(reply, 0xee, length + 1);
      struct virtq_piece pieces[] = {
          {text, length / 3, 0}, {text + length / 3, length - length / 3, 0}, {reply, 100, 1}, {reply + 100, 5900, 1}};
      int got = virtq_request(&q, pieces, 4);
      CHECK(got == (int)length, "request %d of round %d: %d bytes of %d", n, round, got, length);
      CHECK(!memcmp(reply, text, length) && reply[length] == 0xee, "request %d: other bytes", n);
      if (got < 0) return 1;
    }
  }
  return 0;
}
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_echo_to_a_guest(native: str) -> None:
    BareMetal(GUEST, name="echo.c").run(["--plugin", f"virtio-echo,native={native}"]).check()
