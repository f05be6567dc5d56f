/* SPDX-License-Identifier: Apache-2.0 */
/* PCI configuration space by ports CF8/CFC (PCI Local Bus 3.0 section 3.2.2.3.2), and what one does with it. */
#include "guest.h"

enum { ADDRESS = 0xcf8, DATA = 0xcfc, COMMAND = 4, STATUS = 6, BAR0 = 0x10, CAPABILITIES = 0x34 };

static u16 select(u16 bdf, u16 offset)
{
    outl(ADDRESS, 0x80000000u | (u32)bdf << 8 | (offset & 0xfc));
    return DATA + (offset & 3);
}

u8 pci_cfg_read8(u16 bdf, u16 offset) { return inb(select(bdf, offset)); }
u16 pci_cfg_read16(u16 bdf, u16 offset) { return inw(select(bdf, offset)); }
u32 pci_cfg_read32(u16 bdf, u16 offset) { return inl(select(bdf, offset)); }
void pci_cfg_write8(u16 bdf, u16 offset, u8 value) { outb(select(bdf, offset), value); }
void pci_cfg_write16(u16 bdf, u16 offset, u16 value) { outw(select(bdf, offset), value); }
void pci_cfg_write32(u16 bdf, u16 offset, u32 value) { outl(select(bdf, offset), value); }

int pci_find(u16 vendor, u16 device)
{
    for (int slot = 0; slot < 32; slot++) {
        u16 bdf = PCI_BDF(0, slot, 0);
        if (pci_cfg_read32(bdf, 0) == ((u32)device << 16 | vendor))
            return bdf;
    }
    return -1;
}

u8 pci_find_capability(u16 bdf, u8 id)
{
    if (!(pci_cfg_read16(bdf, STATUS) & 0x10))
        return 0;
    u8 at = pci_cfg_read8(bdf, CAPABILITIES) & 0xfc;
    for (int n = 0; at && n < 48; n++) {
        if (pci_cfg_read8(bdf, at) == id)
            return at;
        at = pci_cfg_read8(bdf, at + 1) & 0xfc;
    }
    return 0;
}

static int is_io(u32 low) { return low & 1; }
static int is_64(u32 low) { return !is_io(low) && (low & 6) == 4; }
static u64 flags(u32 low) { return is_io(low) ? 3 : 15; }

u64 pci_bar_address(u16 bdf, int bar)
{
    u16 at = (u16)(BAR0 + 4 * bar);
    u32 low = pci_cfg_read32(bdf, at);
    u64 high = is_64(low) ? pci_cfg_read32(bdf, at + 4) : 0;
    return (high << 32 | low) & ~flags(low);
}

u64 pci_bar_size(u16 bdf, int bar)
{
    u16 at = (u16)(BAR0 + 4 * bar);
    u16 command = pci_cfg_read16(bdf, COMMAND);
    pci_cfg_write16(bdf, COMMAND, command & ~3);
    u32 low = pci_cfg_read32(bdf, at), high = is_64(low) ? pci_cfg_read32(bdf, at + 4) : 0;
    pci_cfg_write32(bdf, at, 0xffffffff);
    u64 mask = pci_cfg_read32(bdf, at) | 0xffffffff00000000ul;
    pci_cfg_write32(bdf, at, low);
    if (is_64(low)) {
        pci_cfg_write32(bdf, at + 4, 0xffffffff);
        mask = (u32)mask | (u64)pci_cfg_read32(bdf, at + 4) << 32;
        pci_cfg_write32(bdf, at + 4, high);
    }
    pci_cfg_write16(bdf, COMMAND, command);
    if (!(u32)mask && mask == 0xffffffff00000000ul)
        return 0;
    if (is_io(low))
        mask |= 0xffffffffffff0000ul; /* upper half may read as 0 */
    return ~(mask & ~flags(low)) + 1;
}

void pci_bar_move(u16 bdf, int bar, u64 address)
{
    u16 at = (u16)(BAR0 + 4 * bar);
    u32 low = pci_cfg_read32(bdf, at);
    if (is_64(low))
        pci_cfg_write32(bdf, at + 4, (u32)(address >> 32));
    pci_cfg_write32(bdf, at, (u32)address);
}
