/* SPDX-License-Identifier: Apache-2.0 */
/* PCI configuration space by CF8/CFC and by ECAM: same bytes, every width and alignment; what a write may change. */
#include "devices.h"

static void select(u16 bdf, unsigned offset) { outl(0xcf8, 0x80000000u | (u32)bdf << 8 | (offset & 0xfc)); }
static u32 cf8_read(u16 bdf, unsigned offset, unsigned size)
{
    select(bdf, offset);
    u16 port = (u16)(0xcfc + (offset & 3));
    return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}
static void cf8_write(u16 bdf, unsigned offset, unsigned size, u32 value)
{
    select(bdf, offset);
    u16 port = (u16)(0xcfc + (offset & 3));
    if (size == 1)
        outb(port, (u8)value);
    else if (size == 2)
        outw(port, (u16)value);
    else
        outl(port, value);
}
static u64 ecam_read(u16 bdf, unsigned offset, unsigned size)
{
    u64 at = ecam(bdf, (u16)offset);
    return size == 1 ? mmio_read8(at) : size == 2 ? mmio_read16(at) : size == 4 ? mmio_read32(at) : mmio_read64(at);
}
static void ecam_write(u16 bdf, unsigned offset, unsigned size, u64 value)
{
    u64 at = ecam(bdf, (u16)offset);
    if (size == 1)
        mmio_write8(at, (u8)value);
    else if (size == 2)
        mmio_write16(at, (u16)value);
    else if (size == 4)
        mmio_write32(at, (u32)value);
    else
        mmio_write64(at, value);
}

static void same_bytes(u16 bdf)
{
    u8 bytes[256];
    for (unsigned n = 0; n < 256; n++)
        bytes[n] = (u8)cf8_read(bdf, n, 1);
    for (unsigned size = 1; size <= 8; size *= 2)
        for (unsigned at = 0; at + size <= 256; at++) {
            u64 want = 0;
            memcpy(&want, bytes + at, size);
            u64 got = ecam_read(bdf, at, size);
            CHECK(got == want, "%x: ECAM size %u at 0x%x: 0x%lx, not 0x%lx", bdf, size, at, got, want);
            if (size > 4 || at % 4 + size > 4)
                continue; /* CFC has four ports */
            got = cf8_read(bdf, at, size);
            CHECK(got == want, "%x: CFC size %u at 0x%x: 0x%lx, not 0x%lx", bdf, size, at, got, want);
        }
    /* The extended space is ECAM's alone, and of a device without extended capabilities it is 0. */
    for (unsigned at = 0x100; at < 0x1000; at += 0xf8)
        CHECK(ecam_read(bdf, at & ~7u, 8) == 0, "%x: extended space at 0x%x: 0x%lx", bdf, at, ecam_read(bdf, at & ~7u, 8));
    /* Over the end of the data ports there is nobody. */
    select(bdf, 0);
    CHECK(inl(0xcfd) == 0xffffffff && inl(0xcff) == 0xffffffff && inw(0xcff) == 0xffff, "accesses over the end of CFC");
}

static void header(u16 bdf, u16 device)
{
    CHECK(ecam_read(bdf, 0, 8) >> 32 << 32 == (ecam_read(bdf, 4, 4) << 32), "first qword 0x%lx", ecam_read(bdf, 0, 8));
    CHECK(cf8_read(bdf, 0, 4) == ((u32)device << 16 | PCI_VENDOR), "id 0x%x", cf8_read(bdf, 0, 4));
    CHECK(cf8_read(bdf, 8, 4) == 0x11800003, "class and revision 0x%x", cf8_read(bdf, 8, 4));
    CHECK(cf8_read(bdf, 0xe, 1) == 0, "header type 0x%x", cf8_read(bdf, 0xe, 1));
    CHECK(cf8_read(bdf, 0x2c, 4) == 0x07774321, "subsystem 0x%x", cf8_read(bdf, 0x2c, 4));
    CHECK(cf8_read(bdf, PCI_STATUS, 2) & 0x10, "status 0x%x has no capability list", cf8_read(bdf, PCI_STATUS, 2));
    /* Read-only fields stay whatever is written, by either way and any width. */
    static const u8 fixed[] = {0x00, 0x02, 0x08, 0x09, 0x0a, 0x0b, 0x0e, 0x24, 0x2c, 0x2e, 0x34};
    for (unsigned n = 0; n < sizeof fixed; n++)
        for (unsigned size = 1; size <= 4; size *= 2) {
            unsigned at = fixed[n];
            if (at % size)
                continue;
            u64 before = ecam_read(bdf, at & 0xfc, 4);
            u32 zeros = 0;
            cf8_write(bdf, at, size, ~(u32)before);
            ecam_write(bdf, at, size, (u32)before ^ 0x5a5a5a5a);
            cf8_write(bdf, at, size, zeros);
            CHECK(ecam_read(bdf, at & 0xfc, 4) == before, "read-only 0x%x size %u: 0x%lx became 0x%lx", at, size, before,
                  ecam_read(bdf, at & 0xfc, 4));
        }
}

static void command(u16 bdf)
{
    u16 before = (u16)cf8_read(bdf, PCI_COMMAND, 2);
    for (unsigned value = 0; value < 8; value++) {
        (value & 1 ? ecam_write(bdf, PCI_COMMAND, 2, value) : cf8_write(bdf, PCI_COMMAND, 2, value));
        CHECK(cf8_read(bdf, PCI_COMMAND, 2) == value && ecam_read(bdf, PCI_COMMAND, 2) == value, "command 0x%x: 0x%x, 0x%lx",
              value, cf8_read(bdf, PCI_COMMAND, 2), ecam_read(bdf, PCI_COMMAND, 2));
    }
    cf8_write(bdf, PCI_COMMAND, 2, 0xffff);
    u32 all = cf8_read(bdf, PCI_COMMAND, 2);
    CHECK((all & 7) == 7 && (all & 0x400) && !(all & 0xf800), "command of all ones: 0x%x", all);
    cf8_write(bdf, PCI_COMMAND, 1, 0); /* the lower byte alone */
    CHECK(cf8_read(bdf, PCI_COMMAND, 2) == (all & 0xff00), "command 0x%x", cf8_read(bdf, PCI_COMMAND, 2));
    ecam_write(bdf, PCI_COMMAND + 1, 1, 0); /* the upper one */
    CHECK(cf8_read(bdf, PCI_COMMAND, 2) == 0, "command 0x%x", cf8_read(bdf, PCI_COMMAND, 2));
    cf8_write(bdf, PCI_COMMAND, 2, before);
    /* Scratch registers: interrupt line, cache line size. A write by one way is there for the other. */
    for (unsigned size = 1; size <= 4; size *= 2) {
        cf8_write(bdf, 0x3c, size, 0xa0a0a0a0 + size);
        CHECK(ecam_read(bdf, 0x3c, 1) == 0xa0 + size, "interrupt line by ECAM 0x%lx", ecam_read(bdf, 0x3c, 1));
        ecam_write(bdf, 0x3c, size, 0x50 + size);
        CHECK(cf8_read(bdf, 0x3c, 1) == 0x50 + size, "interrupt line by CF8 0x%x", cf8_read(bdf, 0x3c, 1));
    }
    CHECK(cf8_read(bdf, 0x3d, 1) == 0, "interrupt pin 0x%x", cf8_read(bdf, 0x3d, 1));
    ecam_write(bdf, 0x38, 8, 0x0000007700000000ul); /* a qword over two registers */
    CHECK(cf8_read(bdf, 0x3c, 1) == 0x77 && cf8_read(bdf, 0x38, 4) == 0, "qword write: 0x%x", cf8_read(bdf, 0x3c, 1));
}

static void write_ones_to_clear(u16 bdf)
{
    u32 status = cf8_read(bdf, PCI_STATUS, 2);
    CHECK((status & 0xf900) == 0xf900, "status 0x%x", status);
    cf8_write(bdf, PCI_STATUS, 2, 0);
    CHECK(cf8_read(bdf, PCI_STATUS, 2) == status, "status after zeros 0x%x", cf8_read(bdf, PCI_STATUS, 2));
    cf8_write(bdf, PCI_STATUS, 2, 0x8000);
    CHECK(cf8_read(bdf, PCI_STATUS, 2) == (status & ~0x8000u), "status after 0x8000: 0x%x", cf8_read(bdf, PCI_STATUS, 2));
    ecam_write(bdf, PCI_STATUS + 1, 1, 0x40);
    CHECK(cf8_read(bdf, PCI_STATUS, 2) == (status & ~0xc000u), "status after 0x4000: 0x%x", cf8_read(bdf, PCI_STATUS, 2));
    u32 both = (u32)ecam_read(bdf, PCI_COMMAND, 4);
    cf8_write(bdf, PCI_COMMAND, 4, both); /* the classical mistake: clears what is set */
    CHECK(cf8_read(bdf, PCI_COMMAND, 4) == (both & ~0xf9000000u), "0x%x", cf8_read(bdf, PCI_COMMAND, 4));
    cf8_write(bdf, PCI_STATUS, 2, 0xffff);
    CHECK(cf8_read(bdf, PCI_STATUS, 2) == (status & ~0xf900u), "status after ones 0x%x", cf8_read(bdf, PCI_STATUS, 2));
}

static void capabilities(u16 bdf)
{
    unsigned seen = 0, vendor = 0, msix = 0, at = cf8_read(bdf, 0x34, 1);
    while (at && seen < 48) {
        CHECK(at >= 0x40 && at % 4 == 0, "capability at 0x%x", at);
        u32 id = cf8_read(bdf, at, 1);
        vendor = id == CAP_VENDOR ? at : vendor;
        msix = id == CAP_MSIX ? at : msix;
        seen++;
        at = cf8_read(bdf, at + 1, 1);
    }
    CHECK(seen == 2 && vendor && msix, "%u capabilities, vendor's at 0x%x, MSI-X at 0x%x", seen, vendor, msix);
    CHECK(ecam_read(bdf, msix + 2, 2) == MSIX_VECTORS - 1, "MSI-X control 0x%lx", ecam_read(bdf, msix + 2, 2));
    CHECK((ecam_read(bdf, msix + 4, 4) & 7) == MSIX_BAR && (ecam_read(bdf, msix + 8, 4) & 7) == MSIX_BAR, "MSI-X table, PBA");
    /* Body 0a 11 22 33 44 55 66 77, of which bytes 2 and 6 and half of 3 may be written. */
    CHECK(ecam_read(bdf, vendor + 2, 8) == 0x776655443322110aul, "vendor capability 0x%lx", ecam_read(bdf, vendor + 2, 8));
    ecam_write(bdf, vendor + 2, 8, 0);
    CHECK(ecam_read(bdf, vendor + 2, 8) == 0x770055443000110aul, "after zeros 0x%lx", ecam_read(bdf, vendor + 2, 8));
    cf8_write(bdf, vendor + 4, 4, 0xffffffff);
    CHECK(ecam_read(bdf, vendor + 2, 8) == 0x770055443fff110aul, "after ones 0x%lx", ecam_read(bdf, vendor + 2, 8));
    u32 ids = (u32)ecam_read(bdf, vendor, 2);
    ecam_write(bdf, vendor, 2, 0xffff);
    CHECK(ecam_read(bdf, vendor, 2) == ids, "the list itself was changed: 0x%lx", ecam_read(bdf, vendor, 2));
}

static void absent(void)
{
    static const u16 missing[] = {PCI_BDF(0, 20, 0), PCI_BDF(0, 31, 0), PCI_BDF(0, 31, 7), PCI_BDF(0, 0, 1), PCI_BDF(0, 0, 7),
                                  PCI_BDF(0, 1, 1), PCI_BDF(1, 0, 0), PCI_BDF(0x80, 1, 0), PCI_BDF(255, 31, 7)};
    for (unsigned n = 0; n < sizeof missing / sizeof *missing; n++)
        for (unsigned size = 1; size <= 4; size *= 2)
            for (unsigned at = 0; at < 0x100; at += 4) {
                u32 all = size == 4 ? 0xffffffff : (1u << (8 * size)) - 1;
                u32 got = cf8_read(missing[n], at, size);
                CHECK(got == all, "CF8 %x at 0x%x size %u: 0x%x", missing[n], at, size, got);
                if (at % 64)
                    continue;
                cf8_write(missing[n], at, size, 0);
                got = (u32)ecam_read(missing[n], at, size); /* bus > 0: behind the only bus there is no ECAM */
                CHECK(got == all, "ECAM %x at 0x%x size %u: 0x%x", missing[n], at, size, got);
                ecam_write(missing[n], at, size, 0);
                got = cf8_read(missing[n], at, size);
                CHECK(got == all, "CF8 %x at 0x%x size %u after writes: 0x%x", missing[n], at, size, got);
            }
}

static void address_register(u16 bdf)
{
    outl(0xcf8, 0x80000000u | (u32)bdf << 8 | 0x2c);
    CHECK(inl(0xcf8) == (0x80000000u | (u32)bdf << 8 | 0x2c), "CF8 reads 0x%x", inl(0xcf8));
    /* Narrower accesses to it are not its own. */
    u32 before = inl(0xcf8);
    outb(0xcf8, 0);
    outw(0xcf8, 0);
    outb(0xcfb, 0);
    CHECK(inl(0xcf8) == before, "CF8 after narrow writes: 0x%x", inl(0xcf8));
    CHECK(inl(0xcfc) == 0x07774321, "data 0x%x", inl(0xcfc));
    outl(0xcf8, 0xffffffff); /* reserved bits are 0 */
    CHECK(inl(0xcf8) == 0x80fffffc, "CF8 of all ones reads 0x%x", inl(0xcf8));
    outl(0xcf8, (u32)bdf << 8); /* not enabled: nobody answers, nothing is written */
    CHECK(inl(0xcfc) == 0xffffffff, "disabled data 0x%x", inl(0xcfc));
    outl(0xcf8, (u32)bdf << 8 | 0x3c);
    outb(0xcfc, 0x99);
    CHECK(cf8_read(bdf, 0x3c, 1) != 0x99, "a write reached the device while CF8 was disabled");
}

int main(struct hvm_start_info *si)
{
    (void)si;
    CHECK(cf8_read(0, 0, 4) == 0x0d578086 && cf8_read(0, 0xa, 2) == 0x0600, "host bridge 0x%x", cf8_read(0, 0, 4));
    u16 a = need_pci(PCI_A), b = need_pci(PCI_B);
    CHECK(a != b, "two devices in one slot");
    address_register(a);
    same_bytes(0);
    same_bytes(a);
    same_bytes(b);
    header(a, PCI_A);
    header(b, PCI_B);
    command(a);
    write_ones_to_clear(a);
    capabilities(a);
    CHECK((cf8_read(b, PCI_STATUS, 2) & 0xf900) == 0xf900, "writes to one device reached the other");
    absent();
    same_bytes(a);
    return 0;
}
