/* SPDX-License-Identifier: Apache-2.0 */
/* BARs: sizes, and moves while the machine (and another CPU) runs. */
#include "devices.h"

#define WINDOW32 0xc0000000ul
#define WINDOW32_END 0xe8000000ul
#define NOWHERE 0xffffffffu

static u16 a, b;

static u64 end_of_window64(void)
{
    /* The platform keeps its own registers below the end of the address space. */
    u32 bits = cpuid(0x80000008, 0).eax & 0xff;
    return (1ul << bits) - 0x10000 - 0x100000;
}

static void sizes(u16 dev)
{
    static const u64 want[] = {0x1000, 64, 0x10000, 0, 0x1000, 0};
    for (int n = 0; n < 6; n++) {
        if (n == 3)
            continue; /* upper half of BAR 2 */
        u64 before = pci_bar_address(dev, n), size = pci_bar_size(dev, n);
        CHECK(size == want[n], "BAR %d has 0x%lx bytes", n, size);
        CHECK(pci_bar_address(dev, n) == before, "BAR %d: sizing moved it", n);
        CHECK(!size || before % size == 0, "BAR %d is not aligned: 0x%lx", n, before);
    }
    CHECK((pci_cfg_read32(dev, 0x10) & 15) == 0, "BAR 0 flags 0x%x", pci_cfg_read32(dev, 0x10) & 15);
    CHECK((pci_cfg_read32(dev, 0x14) & 3) == 1, "BAR 1 flags 0x%x", pci_cfg_read32(dev, 0x14) & 3);
    CHECK((pci_cfg_read32(dev, 0x18) & 15) == 12, "BAR 2 flags 0x%x", pci_cfg_read32(dev, 0x18) & 15);
    u64 at = pci_bar_address(dev, 0);
    CHECK(at >= WINDOW32 && at + 0x1000 <= WINDOW32_END, "BAR 0 is outside of its window: 0x%lx", at);
    at = pci_bar_address(dev, 2);
    CHECK(at >= 0x100000000ul && at + 0x10000 <= end_of_window64(), "BAR 2 is outside of its window: 0x%lx", at);
    /* The lower bits are fixed; a size probe of one byte changes nothing outside it. */
    pci_command(dev, 0);
    u32 low = pci_cfg_read32(dev, 0x10);
    pci_cfg_write8(dev, 0x10, 0xff);
    CHECK(pci_cfg_read32(dev, 0x10) == low, "BAR 0 after a byte of ones 0x%x", pci_cfg_read32(dev, 0x10));
    mmio_write64(ecam(dev, 0x18), ~0ul); /* both halves at once */
    CHECK(mmio_read64(ecam(dev, 0x18)) == 0xffffffffffff000cul, "BAR 2 of all ones 0x%lx", mmio_read64(ecam(dev, 0x18)));
    mmio_write64(ecam(dev, 0x18), at);
    CHECK(pci_bar_address(dev, 2) == at, "BAR 2 0x%lx", pci_bar_address(dev, 2));
    pci_command(dev, 7);
}

/* The device answers at `at` (memory BAR 0) and nowhere at `not`. */
static void at0(u16 device, u64 at, u64 not, const char *what)
{
    CHECK(mmio_read32(at + R_ID) == ID0(device), "%s: 0x%lx reads 0x%x", what, at, mmio_read32(at + R_ID));
    mmio_write64(at + R_SCRATCH, at ^ 0x1234);
    CHECK(mmio_read64(at + R_SCRATCH) == (at ^ 0x1234), "%s: scratch 0x%lx", what, mmio_read64(at + R_SCRATCH));
    CHECK(mmio_read64(at + R_BAR0_AT) == at, "%s: the VMM says 0x%lx", what, mmio_read64(at + R_BAR0_AT));
    if (not)
        CHECK(mmio_read32(not) == NOWHERE, "%s: old address 0x%lx reads 0x%x", what, not, mmio_read32(not));
}

static void moves(void)
{
    u64 home = pci_bar_address(a, 0), last = home;
    static const u64 places[] = {0xd0000000ul, 0xc0000000ul + 0x7000000, WINDOW32_END - 0x1000, 0xd0001000ul};
    at0(PCI_A, home, 0, "start");
    for (unsigned n = 0; n < sizeof places / sizeof *places; n++) {
        pci_bar_move(a, 0, places[n]);
        at0(PCI_A, places[n], last, "move");
        last = places[n];
    }
    /* Onto half of its own old range there is nothing to be had: 4 KiB BARs cannot overlap but fully. */
    pci_bar_move(a, 0, last);
    at0(PCI_A, last, 0, "move to where it is");
    /* I/O */
    u16 io = (u16)pci_bar_address(a, 1);
    CHECK(inl(io) == ID1(PCI_A), "I/O BAR reads 0x%x", inl(io));
    pci_bar_move(a, 1, 0xe040);
    CHECK(inl(0xe040) == ID1(PCI_A) && inl(io) == NOWHERE, "I/O BAR moved: 0x%x, old 0x%x", inl(0xe040), inl(io));
    outl(0xe044, 0x13572468);
    CHECK(inl(0xe044) == 0x13572468 && inb(0xe046) == 0x57, "I/O scratch 0x%x", inl(0xe044));
    pci_bar_move(a, 1, 0x3c0); /* below the window: ISA's */
    CHECK(inl(0x3c0) == NOWHERE && inl(0xe040) == NOWHERE, "I/O BAR below its window: 0x%x", inl(0x3c0));
    pci_bar_move(a, 1, 0x3f8 & ~63u); /* over the serial port, which goes on working */
    pci_bar_move(a, 1, io);
    CHECK(inl(io) == ID1(PCI_A), "I/O BAR back: 0x%x", inl(io));
    pci_bar_move(a, 0, home);
    at0(PCI_A, home, last, "home");
}

static void moves64(void)
{
    u64 home = pci_bar_address(a, 2), high = (end_of_window64() - 0x10000) & ~0xfffful, low = 0xc5000000ul;
    u64 places[] = {home + 0x40000000, high, low, home};
    u64 last = home;
    map(home, 0x200000, 1);
    map(home + 0x40000000, 0x200000, 1);
    map(high, 0x10000, 1);
    CHECK(mmio_read32(home) == ID2(PCI_A), "64-bit BAR reads 0x%x", mmio_read32(home));
    for (unsigned n = 0; n < 4; n++) {
        if (n & 1)
            mmio_write64(ecam(a, 0x18), places[n]); /* both halves in one write */
        else
            pci_bar_move(a, 2, places[n]);
        u64 at = places[n];
        mmio_write64(at + W_SCRATCH, at + 7);
        CHECK(mmio_read32(at + W_ID) == ID2(PCI_A) && mmio_read64(at + W_SCRATCH) == at + 7 && mmio_read32(at + W_LAST) == 0x6565,
              "64-bit BAR at 0x%lx: 0x%x, 0x%lx, 0x%x", at, mmio_read32(at), mmio_read64(at + W_SCRATCH), mmio_read32(at + W_LAST));
        CHECK(mmio_read32(last) == NOWHERE && mmio_read32(last + W_LAST) == NOWHERE, "old 64-bit address 0x%lx: 0x%x", last,
              mmio_read32(last));
        last = at;
    }
    /* Half a move: only the upper half written, so that it is far outside. */
    pci_cfg_write32(a, 0x1c, 0xffffffff);
    CHECK(mmio_read32(home) == NOWHERE, "upper half of all ones, old address 0x%x", mmio_read32(home));
    pci_cfg_write32(a, 0x1c, (u32)(home >> 32));
    CHECK(mmio_read32(home) == ID2(PCI_A), "upper half back: 0x%x", mmio_read32(home));
}

/* Addresses at which a BAR must not decode. */
static void forbidden(void)
{
    u64 home = pci_bar_address(a, 0), other = pci_bar_address(b, 0);
    static const u64 places[] = {0, 0x1000, 0x2000000, 0x3fff000, 0x80000000ul, 0xbffff000ul, 0xe8000000ul, 0xe8001000ul,
                                 0xf0000000ul, 0xf8000000ul, 0xf8003000ul, 0xfec00000ul, 0xfed50000ul, 0xfed52000ul,
                                 0xfffff000ul};
    volatile u32 *ram = (volatile u32 *)0x2000000;
    u32 lapic = lapic_read(LAPIC_VERSION);
    ram[0] = 0xcafe0001;
    for (unsigned n = 0; n < sizeof places / sizeof *places; n++) {
        u32 was = mmio_read32(places[n]);
        pci_bar_move(a, 0, places[n]);
        CHECK(pci_cfg_read32(a, 0x10) == places[n], "BAR 0 keeps what was written: 0x%x", pci_cfg_read32(a, 0x10));
        CHECK(mmio_read32(places[n]) == was, "BAR at 0x%lx: reads 0x%x, before 0x%x", places[n], mmio_read32(places[n]), was);
        CHECK(mmio_read32(home) == NOWHERE, "BAR at 0x%lx: old address reads 0x%x", places[n], mmio_read32(home));
    }
    pci_bar_move(a, 0, 0x2000000);
    ram[2] = 0x600d;
    CHECK(ram[0] == 0xcafe0001 && ram[2] == 0x600d, "RAM under a BAR: 0x%x 0x%x", ram[0], ram[2]);
    pci_bar_move(a, 0, 0xfee00000ul);
    CHECK(lapic_read(LAPIC_VERSION) == lapic, "local APIC under a BAR: 0x%x", lapic_read(LAPIC_VERSION));
    CHECK(mmio_read32(ecam(a, 0)) == (PCI_A << 16 | PCI_VENDOR), "ECAM 0x%x", mmio_read32(ecam(a, 0)));
    /* 64-bit BAR over RAM and over the platform's own. */
    u64 wide = pci_bar_address(a, 2);
    pci_bar_move(a, 2, 0x2000000);
    CHECK(ram[0] == 0xcafe0001 && mmio_read32(wide) == NOWHERE, "RAM under a 64-bit BAR: 0x%x", ram[0]);
    map(end_of_window64() & ~0x1ffffful, 0x200000, 1);
    pci_bar_move(a, 2, end_of_window64());
    CHECK(mmio_read32(end_of_window64()) != ID2(PCI_A), "64-bit BAR over the platform's registers");
    pci_bar_move(a, 2, wide);
    CHECK(mmio_read32(wide) == ID2(PCI_A), "64-bit BAR home again: 0x%x", mmio_read32(wide));
    pci_bar_move(a, 0, home);
    at0(PCI_A, home, 0, "home after forbidden places");

    /* Over another device's: that one goes on, ours decodes nowhere until it is free. */
    pci_bar_move(a, 0, other);
    at0(PCI_B, other, home, "onto another device");
    pci_bar_move(b, 0, 0xd4000000ul);
    at0(PCI_A, other, home, "the other one left");
    at0(PCI_B, 0xd4000000ul, 0, "the other one");
    pci_bar_move(a, 0, home);
    pci_bar_move(b, 0, other);
    at0(PCI_A, home, 0xd4000000ul, "home");
    at0(PCI_B, other, 0, "home");
    /* A large BAR over a small one of another device, and of its own. */
    pci_bar_move(a, 2, other & ~0xfffful);
    at0(PCI_B, other, 0, "under a large BAR");
    CHECK(mmio_read32(wide) == NOWHERE, "large BAR's old address 0x%x", mmio_read32(wide));
    pci_bar_move(a, 2, wide);
    CHECK(mmio_read32(wide) == ID2(PCI_A), "large BAR home: 0x%x", mmio_read32(wide));
    at0(PCI_A, home, 0, "after the large BAR");
}

static void swap(void)
{
    u64 x = pci_bar_address(a, 0), y = pci_bar_address(b, 0);
    for (int round = 0; round < 3; round++) {
        pci_bar_move(a, 0, y); /* taken for a moment */
        pci_bar_move(b, 0, x);
        at0(PCI_A, y, 0, "swapped");
        at0(PCI_B, x, 0, "swapped");
        pci_command(a, 0); /* and back with decoding off */
        pci_command(b, 0);
        pci_bar_move(a, 0, x);
        pci_bar_move(b, 0, y);
        CHECK(mmio_read32(x) == NOWHERE && mmio_read32(y) == NOWHERE, "decoding is off: 0x%x 0x%x", mmio_read32(x), mmio_read32(y));
        pci_command(b, 7);
        pci_command(a, 7);
        at0(PCI_A, x, 0, "swapped back");
        at0(PCI_B, y, 0, "swapped back");
    }
}

static void decode(void)
{
    u64 mem = pci_bar_address(a, 0), wide = pci_bar_address(a, 2), msix = pci_bar_address(a, MSIX_BAR);
    u16 io = (u16)pci_bar_address(a, 1);
    for (u16 bits = 0; bits < 8; bits++) {
        pci_command(a, bits);
        u32 m = mmio_read32(mem), w = mmio_read32(wide), i = inl(io), t = mmio_read32(msix + 12);
        CHECK(m == (bits & 2 ? ID0(PCI_A) : NOWHERE), "command %u: memory BAR 0x%x", bits, m);
        CHECK(w == (bits & 2 ? ID2(PCI_A) : NOWHERE), "command %u: 64-bit BAR 0x%x", bits, w);
        CHECK(i == (bits & 1 ? ID1(PCI_A) : NOWHERE), "command %u: I/O BAR 0x%x", bits, i);
        CHECK(t == (bits & 2 ? 1 : NOWHERE), "command %u: MSI-X table 0x%x", bits, t);
        CHECK(mmio_read32(pci_bar_address(b, 0)) == ID0(PCI_B), "the other device went too");
    }
    pci_command(a, 7);
}

/* Another CPU hammers the BAR at all its places meanwhile: it reads the id or nobody, never anything else. */
static const u64 homes[] = {0xd8000000ul, 0xd8001000ul};
static volatile u32 hits, misses, wrong, stop, stopped;
static void hammer(void *arg)
{
    (void)arg;
    while (!stop)
        for (int n = 0; n < 2; n++) {
            u32 got = mmio_read32(homes[n]);
            mmio_write64(homes[n] + R_SCRATCH, 0x1111);
            if (got == ID0(PCI_A))
                hits = hits + 1;
            else if (got == NOWHERE)
                misses = misses + 1;
            else
                wrong = got;
        }
    stopped = 1;
}

static void busy(void)
{
    u64 home = pci_bar_address(a, 0);
    pci_bar_move(a, 0, homes[0]);
    CHECK(smp_start(1, 1, hammer, 0), "no second CPU");
    for (u32 n = 0; n < ROUNDS; n++) {
        u64 to = homes[~n & 1];
        pci_bar_move(a, 0, to);
        u32 got = mmio_read32(to);
        CHECK(got == ID0(PCI_A), "round %u: 0x%x at 0x%lx", n, got, to);
        if (n % 16 == 5) {
            pci_command(a, 0);
            CHECK(mmio_read32(to) == NOWHERE, "round %u: decoding is off", n);
            pci_command(a, 7);
        }
        if (n % 16 == 9) { /* both devices at once at one place */
            u64 theirs = pci_bar_address(b, 0);
            pci_bar_move(b, 0, to);
            CHECK(mmio_read32(to) == ID0(PCI_A), "round %u: pushed out", n);
            pci_bar_move(b, 0, theirs);
        }
    }
    stop = 1;
    CHECK(spin_until(&stopped, 1, 0), "the other CPU did not stop");
    CHECK(!wrong, "the other CPU read 0x%x", wrong);
    CHECK(hits && misses, "%u hits, %u misses", hits, misses);
    pci_bar_move(a, 0, home);
    at0(PCI_A, home, homes[0], "after the hammering");
}

int main(struct hvm_start_info *si)
{
    (void)si;
    a = need_pci(PCI_A);
    b = need_pci(PCI_B);
    map(pci_bar_address(a, 2), 0x200000, 1);
    map(pci_bar_address(b, 2), 0x200000, 1);
    sizes(a);
    sizes(b);
    decode();
    moves();
    moves64();
    forbidden();
    swap();
    busy();
    return 0;
}
