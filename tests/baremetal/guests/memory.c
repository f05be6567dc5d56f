/* SPDX-License-Identifier: Apache-2.0 */
/* More than 3 GiB of RAM: the memory map, RAM on both sides of the hole, and the hole. */
#include "guest.h"

#define GIB 0x40000000ul
#define HOLE (3 * GIB)
#define HIGH (4 * GIB)
#define RAM ((u64)RAM_MIB << 20)
#define END (HIGH + RAM - 3 * GIB)

static const struct hvm_memmap_entry *map_of(struct hvm_start_info *si, u64 address)
{
    const struct hvm_memmap_entry *e = (void *)si->memmap_paddr;
    for (u32 n = 0; n < si->memmap_entries; n++)
        if (address >= e[n].addr && address - e[n].addr < e[n].size)
            return &e[n];
    return 0;
}

int main(struct hvm_start_info *si)
{
    CHECK(si->magic == 0x336ec578 && si->version >= 1, "start info 0x%x version %u", si->magic, si->version);
    const struct hvm_memmap_entry *e = (void *)si->memmap_paddr;
    u64 ram = 0, last = 0;
    for (u32 n = 0; n < si->memmap_entries; n++) {
        printf("map %lx %lx %u\n", e[n].addr, e[n].size, e[n].type);
        CHECK(e[n].addr >= last && e[n].size, "entry %u overlaps, is out of order or empty", n);
        last = e[n].addr + e[n].size;
        if (e[n].type == 1)
            ram += e[n].size;
    }
    CHECK(ram == RAM - 0x60000, "RAM in the map: 0x%lx", ram); /* all but 640 KiB to 1 MiB */
    static const struct { u64 address; u32 type; } want[] = {
        {0, 1}, {0x9ffff, 1}, {0xa0000, 0}, {0xfffff, 0}, {0x100000, 1}, {HOLE - 1, 1}, {HOLE, 0}, {0xe7ffffff, 0},
        {0xe8000000, 2}, {0xfec00000, 0}, {0xfee00000, 0}, {HIGH - 1, 0}, {HIGH, 1}, {END - 1, 1}, {END, 0},
    };
    for (unsigned n = 0; n < sizeof want / sizeof *want; n++) {
        const struct hvm_memmap_entry *at = map_of(si, want[n].address);
        u32 type = at ? at->type : 0;
        CHECK(type == want[n].type || (want[n].type == 0 && type == 2), "0x%lx has type %u", want[n].address, type);
    }
    CHECK(memcmp((void *)si->rsdp_paddr, "RSD PTR ", 8) == 0, "no RSDP at 0x%lx", si->rsdp_paddr);

    /* One word in each of some pages, all written before any is read: no page is there twice. */
    static const u64 pages[] = {0x2000000, 0x40000000, 0x7ffff000, 0x80000000, HOLE - 4096, HIGH, HIGH + 0x5432000, END - 4096};
    enum { PAGES = sizeof pages / sizeof *pages };
    map(HIGH, END - HIGH + 0x200000, 0);
    for (unsigned n = 0; n < PAGES; n++) {
        CHECK(mmio_read64(pages[n]) == 0, "fresh RAM at 0x%lx: 0x%lx", pages[n], mmio_read64(pages[n]));
        mmio_write64(pages[n], pages[n] ^ 0xfeedface0badf00dul);
        mmio_write64(pages[n] + 4088, ~pages[n]);
    }
    for (unsigned n = 0; n < PAGES; n++)
        CHECK(mmio_read64(pages[n]) == (pages[n] ^ 0xfeedface0badf00dul) && mmio_read64(pages[n] + 4088) == ~pages[n],
              "RAM at 0x%lx: 0x%lx, 0x%lx", pages[n], mmio_read64(pages[n]), mmio_read64(pages[n] + 4088));

    static const u64 holes[] = {HOLE, HOLE + 0x1000, 0xd0000000ul, 0xe7fffff8ul, 0xf7000000ul, 0xfffffff8ul, END, END + 0x1000};
    for (unsigned n = 0; n < sizeof holes / sizeof *holes; n++) {
        u64 before = mmio_read64(holes[n]);
        mmio_write64(holes[n], 0x1234567890abcdeful);
        CHECK(before == ~0ul && mmio_read64(holes[n]) == ~0ul, "hole at 0x%lx: 0x%lx, 0x%lx", holes[n], before, mmio_read64(holes[n]));
    }
    /* Half in RAM, half in the hole. */
    mmio_write32(HOLE - 4, 0x11223344);
    CHECK(mmio_read64(HOLE - 4) == 0xffffffff11223344ul, "over the start of the hole: 0x%lx", mmio_read64(HOLE - 4));
    mmio_write64(HOLE - 4, 0x5566778899aabbccul);
    CHECK(mmio_read32(HOLE - 4) == 0x99aabbcc && mmio_read32(HOLE) == ~0u, "written over it: 0x%x", mmio_read32(HOLE - 4));
    mmio_write32(HIGH, 0xa1b2c3d4);
    CHECK(mmio_read64(HIGH - 4) == 0xa1b2c3d4fffffffful, "over the end of the hole: 0x%lx", mmio_read64(HIGH - 4));
    return 0;
}
