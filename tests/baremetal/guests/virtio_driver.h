/* SPDX-License-Identifier: Apache-2.0 */
/* A small virtio-pci driver that keeps to no rule unless told to (virtio 1.2 §4.1, split rings). */
#ifndef VIRTIO_DRIVER_H
#define VIRTIO_DRIVER_H
#include "guest.h"

enum { ECHO = 63, NET = 1, BLK = 2, CONSOLE = 3, RNG = 4, MEM = 24 };
enum { /* common configuration (§4.1.4.3) */
    DEVICE_SELECT = 0, DEVICE_FEATURE = 4, DRIVER_SELECT = 8, DRIVER_FEATURE = 12, CONFIG_VECTOR = 16, NUM_QUEUES = 18,
    STATUS = 20, GENERATION = 21, QUEUE_SELECT = 22, QUEUE_SIZE = 24, QUEUE_VECTOR = 26, QUEUE_ENABLE = 28, NOTIFY_OFF = 30,
    QUEUE_DESC = 32, QUEUE_DRIVER = 40, QUEUE_DEVICE = 48, NOTIFY_DATA = 56, QUEUE_RESET = 58,
};
enum { S_ACK = 1, S_DRIVER = 2, S_OK = 4, S_FEATURES = 8, S_NEEDS_RESET = 64, S_FAILED = 128, S_ALL = 15 };
enum { NEXT = 1, WRITE = 2, INDIRECT = 4 };
enum { PCI_COMMAND = 4, COMMAND_MEM = 2, COMMAND_MASTER = 4, CAP_VENDOR = 9, CAP_MSIX = 0x11 };
enum { SIZE = 64, QUEUES = 4, DATA_SIZE = 4096, NO_VECTOR = 0xffff };
#define F_INDIRECT (1ul << 28)
#define F_EVENT_IDX (1ul << 29)
#define F_VERSION_1 (1ul << 32)
#define F_PACKED (1ul << 34)
#define F_RING_RESET (1ul << 40)

struct desc { u64 addr; u32 len; u16 flags, next; };
struct used_elem { u32 id, len; };
struct queue {
    struct desc desc[SIZE] __attribute__((aligned(4096)));
    struct { u16 flags, idx, ring[SIZE], event; } avail __attribute__((aligned(4096)));
    struct { u16 flags, idx; struct used_elem ring[SIZE]; u16 event; } used __attribute__((aligned(4096)));
};

static volatile struct queue vq[QUEUES] __attribute__((aligned(4096)));
static volatile struct desc table[4096] __attribute__((aligned(4096)));
static volatile u8 data[DATA_SIZE] __attribute__((aligned(4096)));
static u16 bdf, device; /* device: its virtio id */
static u64 common, isr, config, notify, bar0;
static u32 multiplier, config_len, pci_cfg, msix_table;
static u64 offered;

static inline u8 r8(u32 at) { return mmio_read8(common + at); }
static inline u16 r16(u32 at) { return mmio_read16(common + at); }
static inline u32 r32(u32 at) { return mmio_read32(common + at); }
static inline void w8(u32 at, u8 v) { mmio_write8(common + at, v); }
static inline void w16(u32 at, u16 v) { mmio_write16(common + at, v); }
static inline void w32(u32 at, u32 v) { mmio_write32(common + at, v); }
static inline void w64(u32 at, u64 v) { w32(at, (u32)v); w32(at + 4, (u32)(v >> 32)); }

/* --- finding it --- */

static int find_device(u16 id)
{
    int found = pci_find(0x1af4, (u16)(0x1040 + id));
    if (found < 0)
        return 0;
    bdf = (u16)found;
    device = id;
    pci_cfg_write16(bdf, PCI_COMMAND, COMMAND_MEM | COMMAND_MASTER);
    bar0 = pci_bar_address(bdf, 0);
    if (bar0 >> 32)
        map(bar0, 0x80000, 1);
    u8 at = pci_cfg_read8(bdf, 0x34);
    for (int n = 0; at && n < 48; at = pci_cfg_read8(bdf, (u16)(at + 1)), n++) {
        u64 place = bar0 + pci_cfg_read32(bdf, (u16)(at + 8));
        if (pci_cfg_read8(bdf, at) == CAP_MSIX)
            msix_table = pci_cfg_read32(bdf, (u16)(at + 4)) & ~7u;
        if (pci_cfg_read8(bdf, at) != CAP_VENDOR)
            continue;
        switch (pci_cfg_read8(bdf, (u16)(at + 3))) {
        case 1: common = place; break;
        case 2: notify = place; multiplier = pci_cfg_read32(bdf, (u16)(at + 16)); break;
        case 3: isr = place; break;
        case 4: config = place; config_len = pci_cfg_read32(bdf, (u16)(at + 12)); break;
        case 5: pci_cfg = at; break;
        }
    }
    return common && notify && isr;
}

/* --- keeping to the rules --- */

/* Some seconds after `start`, on any machine. */
static int late(u64 start) { return rdtsc() - start > 15000000000ul; }

static int reset_device(void)
{
    w8(STATUS, 0);
    for (u64 start = rdtsc(); !late(start); pause())
        if (!r8(STATUS))
            return 1;
    return 0;
}

static u64 read_offered(void)
{
    u64 bits = 0;
    for (u32 n = 0; n < 2; n++) {
        w32(DEVICE_SELECT, n);
        bits |= (u64)r32(DEVICE_FEATURE) << 32 * n;
    }
    return bits;
}

static void write_features(u64 features)
{
    for (u32 n = 0; n < 2; n++) {
        w32(DRIVER_SELECT, n);
        w32(DRIVER_FEATURE, (u32)(features >> 32 * n));
    }
}

/* Up to FEATURES_OK. */
static int negotiate(u64 features)
{
    w8(STATUS, S_ACK);
    w8(STATUS, S_ACK | S_DRIVER);
    write_features(features);
    w8(STATUS, S_ACK | S_DRIVER | S_FEATURES);
    return r8(STATUS) & S_FEATURES;
}

static void clear_queue(u32 q)
{
    memset((void *)&vq[q].avail, 0, sizeof vq[q].avail);
    memset((void *)&vq[q].used, 0, sizeof vq[q].used);
    memset((void *)vq[q].desc, 0, sizeof vq[q].desc);
}

static void set_addresses(u64 desc, u64 avail, u64 used)
{
    w64(QUEUE_DESC, desc);
    w64(QUEUE_DRIVER, avail);
    w64(QUEUE_DEVICE, used);
}

static int setup_queue(u32 q)
{
    w16(QUEUE_SELECT, (u16)q);
    if (!r16(QUEUE_SIZE))
        return 0;
    clear_queue(q);
    if (r16(QUEUE_SIZE) > SIZE)
        w16(QUEUE_SIZE, SIZE);
    set_addresses((u64)vq[q].desc, (u64)&vq[q].avail, (u64)&vq[q].used);
    w16(QUEUE_ENABLE, 1);
    return r16(QUEUE_ENABLE) == 1;
}

static u16 ring_size(u32 q)
{
    w16(QUEUE_SELECT, (u16)q);
    return r16(QUEUE_SIZE);
}

static u16 sizes[QUEUES];

/* Reset, negotiate, set up the first `queues` queues, DRIVER_OK. */
static int bring_up(u64 features, u32 queues)
{
    if (!reset_device() || !negotiate(features))
        return 0;
    for (u32 q = 0; q < queues; q++) {
        if (!setup_queue(q))
            return 0;
        sizes[q] = ring_size(q);
    }
    w8(STATUS, S_ALL);
    return 1;
}

static void put(u32 q, u32 n, u64 addr, u32 len, u16 flags, u16 next)
{
    vq[q].desc[n] = (struct desc){addr, len, flags, next};
}

static void put_table(u32 n, u64 addr, u32 len, u16 flags, u16 next)
{
    table[n] = (struct desc){addr, len, flags, next};
}

static void kick(u32 q) { mmio_write16(notify + q * multiplier, (u16)q); }

/* Append to the avail ring and notify. */
static void make_available(u32 q, u16 head)
{
    vq[q].avail.ring[vq[q].avail.idx % sizes[q]] = head;
    __asm__ volatile("" ::: "memory");
    vq[q].avail.idx++;
    kick(q);
}

/* Wait until the used index is `idx`. */
static int wait_used(u32 q, u16 idx)
{
    u64 start = rdtsc();
    for (u32 n = 0;; n++) {
        if (vq[q].used.idx == idx)
            return 1;
        if (n % 4096 == 4095 && (late(start) || r8(STATUS) & S_NEEDS_RESET))
            return 0;
        pause();
    }
}

static int wait_status(u8 bits)
{
    for (u64 start = rdtsc(); !late(start); pause())
        if (r8(STATUS) & bits)
            return 1;
    return 0;
}
#endif
