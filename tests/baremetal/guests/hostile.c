/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes and reads everything: each port, then a pseudo-random walk over ports, configuration space, BARs, MSI-X and
 * addresses that belong to somebody, to nobody, or only half; with CPUS 2 a second CPU joins in. It leaves out what would end the machine or the guest
 * itself: the sleep port and the reset command, its own CPU's local APIC, and messages that are INIT or NMI.
 */
#include "devices.h"

enum { COM1 = 0x3f8, GO = 'g' };

static u64 state = SEED;
static u64 any(void) /* xorshift64 */
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}
static u64 value(void)
{
    static const u64 picks[] = {0, 1, ~0ul, 0x80, 0x7fffffff, 0x80000000, 0xfee00000, 0xcfc, 0x5555555555555555, 0xff00, 0xffffffff};
    return any() & 1 ? any() : picks[any() % (sizeof picks / sizeof *picks)];
}
static u64 near(void)
{
    static const u64 bases[] = {0xa0000, 0xc0000000ul, 0xc8000000ul, 0xe7fff000ul, 0xe8000000ul, 0xe8008000ul, 0xe8010000ul,
                                0xe80ff000ul, 0xe8100000ul, 0xf7fff000ul, 0xf8000000ul, 0xfebff000ul, 0xfec01000ul,
                                0xfed50000ul, 0xfed52000ul, 0xfedff000ul, 0xfee01000ul, 0xfef00000ul, 0xffffe000ul, 0x100000000ul,
                                0x100010000ul, 0x3f0000000ul, 0x7f0000000ul};
    return bases[any() % (sizeof bases / sizeof *bases)] + any() % 4096;
}

static void quiet_serial(void)
{
    outb(COM1 + 3, 3);
    outb(COM1 + 1, 0);
    outb(COM1 + 4, 0);
    outb(COM1 + 2, 7);
}

/* Say where we are and wait for the host, which looks at the process meanwhile. */
static void mark(const char *name)
{
    quiet_serial();
    printf("\nMARK %s\n", name);
    while (!(inb(COM1 + 5) & 1) || inb(COM1) != GO)
        pause();
}

static int ends(u16 port, unsigned size, u64 v)
{
    u8 low = (u8)v;
    if (size == 1 && port == 0x600)
        return low == 1 || low == (5 << 2 | 1 << 5);
    return size == 1 && port == 0x64 && low == 0xfe;
}

static void out(u16 port, unsigned size, u64 v)
{
    if (ends(port, size, v) || (port >= COM1 - 3 && port < COM1 + 8 && any() % 16))
        return; /* the serial port only now and then: its output is read by people */
    if (port + size > 0x10000)
        return;
    if (size == 1)
        outb(port, (u8)v);
    else if (size == 2)
        outw(port, (u16)v);
    else
        outl(port, (u32)v);
}
static void in(u16 port, unsigned size)
{
    if (port + size > 0x10000)
        return;
    if (size == 1)
        (void)inb(port);
    else if (size == 2)
        (void)inw(port);
    else
        (void)inl(port);
}

static void every_port(void)
{
    for (u32 port = 0; port < 0x10000; port += port < 0x1000 ? 1 : STEP) {
        unsigned size = 1u << any() % 3;
        if (port < 0x1000)
            for (size = 1; size <= 4; size *= 2) {
                out((u16)port, size, value());
                in((u16)port, size);
            }
        else {
            out((u16)port, size, value());
            in((u16)port, size);
        }
    }
}

static void random_ports(u32 rounds)
{
    static u8 buffer[512];
    static const u16 favourites[] = {0xcf8, 0xcfa, 0xcfc, 0xcfd, 0xcff, 0x70, 0x71, 0x3f8, 0x3f9, 0x3fc, 0x600, 0x608, 0x60b, 0x2a0, 0x2a6, 0x1000, 0xfffd};
    for (u32 n = 0; n < rounds; n++) {
        u16 port = any() & 1 ? (u16)any() : favourites[any() % (sizeof favourites / sizeof *favourites)];
        unsigned size = 1u << any() % 3;
        switch (any() % 8) {
        case 0: { /* an address, then data: configuration space of all kinds */
            outl(0xcf8, (u32)value() | 0x80000000u);
            out((u16)(0xcfc + any() % 4), size, value());
            break;
        }
        case 1: {
            void *to = buffer;
            u64 count = any() % 64;
            if (port < COM1 + 8)
                break;
            __asm__ volatile("rep insl" : "+D"(to), "+c"(count) : "d"(port) : "memory");
            break;
        }
        case 2: in(port, size); break;
        default: out(port, size, value());
        }
    }
}

static void touch(u64 at, u64 v)
{
    switch (any() % 8) {
    case 0: mmio_write8(at, (u8)v); break;
    case 1: mmio_write16(at, (u16)v); break;
    case 2: mmio_write32(at, (u32)v); break;
    case 3: mmio_write64(at, v); break;
    case 4: (void)mmio_read8(at); break;
    case 5: (void)mmio_read16(at); break;
    case 6: (void)mmio_read32(at); break;
    default: (void)mmio_read64(at);
    }
}

static void random_memory(u32 rounds, const u16 *devices)
{
    for (u32 n = 0; n < rounds; n++) {
        u16 dev = devices[any() & 1];
        u64 at;
        switch (any() % 8) {
        case 0: touch(ecam(dev, (u16)(any() & 0xff)), value()); break;
        case 1: touch(ecam((u16)any() & 0x7f, (u16)(any() & 0xfff)), value()); break;
        case 2: /* a BAR to anywhere, with half a move in between */
            mmio_write32(ecam(dev, (u16)(0x10 + 4 * (any() % 6))), (u32)(any() & 1 ? value() : near()));
            break;
        case 3: mmio_write16(ecam(dev, PCI_COMMAND), (u16)any()); break;
        case 4: /* registers of BAR 0, wherever it is */
        case 5: /* MSI-X table and PBA */
            if (any() % 8 == 0) {
                mmio_write32(ecam(dev, 0x10), 0xc6000000 + (dev << 12));
                mmio_write32(ecam(dev, 0x20), 0xc6100000 + (dev << 12));
                mmio_write16(ecam(dev, PCI_COMMAND), 7);
            }
            at = 0xc6000000 + (dev << 12);
            touch(at + any() % 4096, value());
            mmio_write32(at + R_DOORBELL, (u32)any() & 7);
            at = 0xc6100000 + (dev << 12) + 16 * (any() % 5);
            mmio_write32(at, (u32)value());
            mmio_write32(at + 4, any() % 4 ? 0 : (u32)value());
            mmio_write32(at + 8, (u32)value() & ~0x700u); /* fixed: neither NMI nor INIT */
            mmio_write32(at + 12, (u32)value());
            (void)mmio_read64(0xc6100000 + (dev << 12) + 64);
            break;
        default: touch(near(), value());
        }
    }
}

/* The second CPU shares the walk's state without a lock: all the better. */
static volatile u32 stop, stopped;
static void accomplice(void *arg)
{
    while (!stop)
        random_memory(16, arg);
    stopped = 1;
}

int main(struct hvm_start_info *si)
{
    (void)si;
    int a = pci_find(PCI_VENDOR, PCI_A), b = pci_find(PCI_VENDOR, PCI_B);
    CHECK(a >= 0 && b >= 0, "no devices");
    const u16 devices[2] = {(u16)a, (u16)b};
    map(0x100000000ul, 0x200000, 1);
    map(0x3f0000000ul, 0x200000, 1);
    map(0x7f0000000ul, 0x200000, 1);
    mark("start");
    if (CPUS > 1)
        CHECK(smp_start(1, 1, accomplice, (void *)devices), "no second CPU");
    every_port();
    random_ports(ROUNDS);
    random_memory(ROUNDS, devices);
    mark("half");
    for (int n = 0; n < 3; n++) {
        random_ports(ROUNDS);
        random_memory(ROUNDS, devices);
    }
    stop = 1;
    CHECK(CPUS == 1 || spin_until(&stopped, 1, 0), "the second CPU did not stop");
    mark("end");
    /* The machine still works. */
    CHECK(pci_cfg_read32(devices[0], 0) == (PCI_A << 16 | PCI_VENDOR), "config space: 0x%x", pci_cfg_read32(devices[0], 0));
    pci_bar_move(devices[0], 0, 0xc6000000);
    pci_bar_move(devices[1], 0, 0xc6001000);
    pci_bar_move(devices[0], 4, 0xc6002000);
    pci_bar_move(devices[0], 2, 0xc7000000);
    pci_bar_move(devices[1], 2, 0xc7010000);
    pci_bar_move(devices[1], 4, 0xc6003000);
    pci_command(devices[0], 7);
    pci_command(devices[1], 7);
    CHECK(mmio_read32(0xc6000000) == ID0(PCI_A) && mmio_read32(0xc6001000) == ID0(PCI_B), "BAR 0: 0x%x, 0x%x",
          mmio_read32(0xc6000000), mmio_read32(0xc6001000));
    u32 writes = mmio_read32(0xc6000000 + R_WRITES), signals = mmio_read32(0xc6000000 + R_SIGNALS);
    CHECK(writes > ROUNDS / 100 && signals > ROUNDS / 100, "the attack hardly reached the device: %u writes, %u signals", writes, signals);
    CHECK(inb(0x2a0) == (u8)log_pattern(0, 1), "port: 0x%x", inb(0x2a0));
    return 0;
}
