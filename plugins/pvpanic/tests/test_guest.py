# SPDX-License-Identifier: Apache-2.0
"""The device in a whole machine: a bare-metal guest in the place of Linux' pvpanic driver."""

from __future__ import annotations

import pytest
from vmm_testkit.baremetal import BareMetal, BareMetalResult
from vmmcore.errors import ExitCode

pytestmark = pytest.mark.needs_kvm

PANICKED, CRASH_LOADED = 1, 2


def run(body: str, *options: str) -> BareMetalResult:
    return BareMetal("""
    #include "guest.h"
    int main(struct hvm_start_info *si) {
      (void)si;
      int bdf = pci_find(0x1b36, 0x0011);
      if (bdf < 0) { puts("no device\\n"); return 0; }
      pci_cfg_write16(bdf, 4, pci_cfg_read16(bdf, 4) | 2);
      u64 base = pci_bar_address(bdf, 0);
      map(base & ~0x1ffffful, 0x200000, 1);
    """ + body + " return 0; }").run(options)


def test_identity_and_known_events() -> None:
    run("""
    CHECK(pci_cfg_read32(bdf, 8) >> 8 == 0x088000, "class %x", pci_cfg_read32(bdf, 8));
    CHECK(mmio_read8(base) == 3, "events %x", mmio_read8(base));
    CHECK(mmio_read8(base + 1) == 0, "beyond %x", mmio_read8(base + 1));
    """, "--pvpanic", "on").check()


@pytest.mark.parametrize("event", [PANICKED, PANICKED | CRASH_LOADED])
def test_panic_ends_the_vm_with_its_own_status(event: int) -> None:
    result = run(f"mmio_write8(base, {event}); for (;;) pause();", "--pvpanic", "on")
    assert result.exit is None and result.vmm_status == ExitCode.PANIC
    assert "panic" in result.stderr and result.stderr.count("\n") == 1


def test_a_crash_kernel_gets_its_turn() -> None:
    result = run(f"mmio_write8(base, {CRASH_LOADED}); puts(\"crash kernel\\n\");", "--pvpanic", "on").check()
    assert "crash kernel" in result.output


def test_other_writes_do_nothing() -> None:
    run("mmio_write8(base, 0xfc); mmio_write8(base + 1, 1); mmio_write32(base + 4, 0xffffffff);", "--pvpanic", "on").check()


def test_off_means_no_device() -> None:
    assert "no device" in run("", "--pvpanic", "off").check().output
