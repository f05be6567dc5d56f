/* SPDX-License-Identifier: Apache-2.0 */
/* Resets in every way, by both CPUs; each boot finds a fresh machine. The eighth switches off. */
#include "devices.h"

#define MARK ((volatile u64 *)0x2000000)

static volatile u32 up;
static void worker(void *arg)
{
    up = 1;
    if (arg)
        outb(0x600, 1);
    for (;;) /* busy, in the guest and on the bus, when the reset comes */
        (void)mmio_read32((u64)MARK), (void)inb(LOGGED_PORTS);
}

int main(struct hvm_start_info *si)
{
    u32 boot = inl(INFO_BUILDS);
    printf("BOOT %u fds %u\n", boot, inl(INFO_FDS));
    CHECK(si->magic == 0x336ec578, "start info 0x%x", si->magic);
    int found = pci_find(PCI_VENDOR, PCI_A);
    CHECK(found >= 0, "no device");
    u16 dev = (u16)found;
    /* Nothing of what the boot before did is left. */
    CHECK(*MARK == 0, "RAM still holds 0x%lx", *MARK);
    CHECK((pci_cfg_read16(dev, PCI_COMMAND) & 7) == 0, "command 0x%x", pci_cfg_read16(dev, PCI_COMMAND));
    CHECK((pci_cfg_read16(dev, PCI_STATUS) & 0xf900) == 0xf900, "status 0x%x", pci_cfg_read16(dev, PCI_STATUS));
    CHECK(pci_cfg_read8(dev, 0x3c) == 0, "interrupt line 0x%x", pci_cfg_read8(dev, 0x3c));
    CHECK(pci_bar_address(dev, 0) != 0xd0000000ul, "BAR 0 is where it was moved to");
    u8 cap = pci_find_capability(dev, CAP_MSIX);
    CHECK(!(pci_cfg_read16(dev, cap + 2) & 0xc000), "MSI-X control 0x%x", pci_cfg_read16(dev, cap + 2));
    CHECK(inb(0x3f8 + 7) == 0, "serial scratch 0x%x", inb(0x3f8 + 7));
    CHECK(lapic_id() == 0 && !lapic_is_x2(), "local APIC");
    outb(0x70, 0x40);
    CHECK(inb(0x71) == 0, "CMOS 0x%x", inb(0x71));
    if (failures)
        return 1;

    need_pci(PCI_A);
    pci_bar_move(dev, 0, 0xd0000000ul);
    u64 table = pci_bar_address(dev, MSIX_BAR);
    mmio_write32(table, 0xfee00000);
    mmio_write32(table + 8, 0x70);
    mmio_write32(table + 12, boot & 1);
    pci_cfg_write16(dev, cap + 2, 0x8000);
    mmio_write32(0xd0000000ul + R_DOORBELL, 0); /* in flight, or pending */
    pci_cfg_write16(dev, PCI_STATUS, 0xffff);
    pci_cfg_write8(dev, 0x3c, 9);
    outb(0x3f8 + 7, 0x77);
    outb(0x71, 0x33);
    *MARK = boot;
    if (boot > 2 && boot < 8) { /* interrupts off: nobody takes the message */
        CHECK(smp_start(1, 1, worker, (void *)(u64)(boot == 6)), "no second CPU");
        spin_until(&up, 1, 0);
    }
    if (boot >= 8)
        return 0;
    lapic_use_x2();
    if (boot == 6)
        ; /* the other CPU does it */
    else if (boot & 1)
        outb(0x600, 1);
    else
        outb(0x64, 0xfe);
    for (;;)
        __asm__ volatile("hlt");
}
