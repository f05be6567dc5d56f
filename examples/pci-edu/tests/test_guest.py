# SPDX-License-Identifier: Apache-2.0
"""A driver of a few lines in a bare-metal guest: factorial and DMA with MSI-X."""

from __future__ import annotations

import pytest
from vmm_testkit.baremetal import BareMetal

pytestmark = pytest.mark.needs_kvm

GUEST = """
#include "guest.h"
enum { ID = 0x00, LIVENESS = 0x04, FACTORIAL = 0x08, STATUS = 0x20, IRQ_STATUS = 0x24, IRQ_RAISE = 0x60, IRQ_ACK = 0x64,
       SOURCE = 0x80, TARGET = 0x88, COUNT = 0x90, COMMAND = 0x98, BUFFER = 0x40000, VECTOR = 0x51 };
static u64 edu;
static volatile u32 why, interrupts;
static u8 out[4096] __attribute__((aligned(16))), in[4096] __attribute__((aligned(16)));

static void on_interrupt(struct trap_frame *frame) {
  (void)frame;
  u32 status = mmio_read32(edu + IRQ_STATUS);
  mmio_write32(edu + IRQ_ACK, status);
  why |= status;
  interrupts++;
}

static void wait_for(u32 reason, u32 count) {
  irq_enable();
  CHECK(spin_until(&interrupts, count, 0), "interrupts: %d, not %d", interrupts, count);
  irq_disable();
  CHECK(why == reason, "reason %x", why);
  why = 0;
}

static void transfer(u64 source, u64 target, u32 count, u32 command) {
  mmio_write64(edu + SOURCE, source);
  mmio_write64(edu + TARGET, target);
  mmio_write32(edu + COUNT, count);
  mmio_write32(edu + COMMAND, command | 1);
}

int main(struct hvm_start_info *si) {
  (void)si;
  int bdf = pci_find(0x1234, 0x11e8);
  CHECK(bdf >= 0, "no device, %d", bdf);
  pci_cfg_write16(bdf, 4, 6); /* memory, bus master */
  edu = pci_bar_address(bdf, 0);
  CHECK(pci_bar_size(bdf, 0) == 1 << 20, "size %lx", pci_bar_size(bdf, 0));
  map(edu & ~0x1ffffful, 0x200000, 1);
  CHECK(mmio_read32(edu + ID) == 0x010000ed, "id %x", mmio_read32(edu + ID));
  mmio_write32(edu + LIVENESS, 0xa5a50000);
  CHECK(mmio_read32(edu + LIVENESS) == 0x5a5affff, "liveness %x", mmio_read32(edu + LIVENESS));

  mmio_write32(edu + FACTORIAL, 10); /* polled */
  while (mmio_read32(edu + STATUS) & 1) pause();
  CHECK(mmio_read32(edu + FACTORIAL) == 3628800, "10! %d", mmio_read32(edu + FACTORIAL));

  u64 table = pci_bar_address(bdf, 1);
  map(table & ~0x1ffffful, 0x200000, 1);
  mmio_write32(table, 0xfee00000 | lapic_id() << 12);
  mmio_write32(table + 4, 0);
  mmio_write32(table + 8, VECTOR);
  mmio_write32(table + 12, 0);
  u8 cap = pci_find_capability(bdf, 0x11);
  pci_cfg_write16(bdf, cap + 2, 0x8000);
  set_irq_handler(VECTOR, on_interrupt);

  mmio_write32(edu + IRQ_RAISE, 0xc0de);
  wait_for(0xc0de, 1);
  mmio_write32(edu + STATUS, 0x80);
  mmio_write32(edu + FACTORIAL, 12);
  wait_for(1, 2);
  CHECK(mmio_read32(edu + FACTORIAL) == 479001600, "12! %d", mmio_read32(edu + FACTORIAL));

  for (int i = 0; i < 4096; i++) out[i] = (u8)(i * 7);
  transfer((u64)out, BUFFER, 4096, 4);
  wait_for(0x100, 3);
  transfer(BUFFER + 1000, (u64)in + 1, 3000, 4 | 2);
  wait_for(0x100, 4);
  CHECK(!memcmp(in + 1, out + 1000, 3000), "first byte %x", in[1]);
  CHECK(!in[0] && !in[3001], "beyond: %x %x", in[0], in[3001]);
  CHECK(mmio_read32(edu + IRQ_STATUS) == 0, "left %x", mmio_read32(edu + IRQ_STATUS));
  return 0;
}
"""


def test_driver() -> None:
    BareMetal(GUEST, name="edu.c").run(["--plugin", "pci-edu"]).check()
