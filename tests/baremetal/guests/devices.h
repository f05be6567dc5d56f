/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of the devices in ../devices.py. */
#ifndef DEVICES_H
#define DEVICES_H
#include "guest.h"

/* --- ports: every access to these is logged; each byte reads as a number made of its offset -------------- */
#define LOGGED_PORTS 0x2a0 /* 8 ports: region 1 */
#define LOGGED_MMIO 0xfed50000ul /* 0x800 bytes: region 2; the next 0x800: region 3 */
#define LOG_CONTROL 0xfed52000ul
#define INFO_BUILDS 0x2b0 /* how many machines this process has built */
#define INFO_FDS 0x2b4 /* how many fds the process has */

struct logged { u64 region, is_write, offset, size, value; };
static inline void log_clear(void) { mmio_write64(LOG_CONTROL, 0); }
static inline u64 log_count(void) { return mmio_read64(LOG_CONTROL); }
static inline struct logged log_entry(u64 index)
{
    mmio_write64(LOG_CONTROL + 8, index);
    return (struct logged){mmio_read64(LOG_CONTROL + 8), mmio_read64(LOG_CONTROL + 16), mmio_read64(LOG_CONTROL + 24),
                           mmio_read64(LOG_CONTROL + 32), mmio_read64(LOG_CONTROL + 40)};
}
static inline u64 log_pattern(u64 offset, unsigned size)
{
    u64 value = 0;
    for (unsigned n = 0; n < size; n++)
        value |= (u64)(u8)(7 * (offset + n) + 3) << (8 * n);
    return value;
}
static inline u64 ones(unsigned size) { return size == 8 ? ~0ul : (1ul << (8 * size)) - 1; }

/* --- pcia, pcib ------------------------------------------------------------------------------------------ */
#define PCI_VENDOR 0x1234
#define PCI_A 0x0b0a
#define PCI_B 0x0b0b
enum { /* BAR 0, 4 KiB of memory */
    R_ID = 0, /* 0x54540000 | device id */
    R_WRITES = 4, /* how many writes came to BAR 0 */
    R_SCRATCH = 8, /* 64 bits */
    R_DOORBELL = 0x10, /* signals MSI-X vector n */
    R_SIGNALS = 0x18,
    R_BAR0_AT = 0x20, R_BAR1_AT = 0x28, R_BAR2_AT = 0x30, /* where the VMM says that they decode; ones: nowhere */
};
enum { /* BAR 1, 64 ports */ IO_ID = 0 /* 0x49490000 | device id */, IO_SCRATCH = 4 };
enum { /* BAR 2, 64 KiB, 64-bit, prefetchable */ W_ID = 0 /* 0x64640000 | device id */, W_SCRATCH = 8, W_LAST = 0xfff8 };
#define ID0(device) (0x54540000u | (device))
#define ID1(device) (0x49490000u | (device))
#define ID2(device) (0x64640000u | (device))
#define MSIX_BAR 4
#define MSIX_VECTORS 4

enum { PCI_COMMAND = 4, PCI_STATUS = 6, COMMAND_IO = 1, COMMAND_MEM = 2, COMMAND_MASTER = 4, CAP_VENDOR = 9, CAP_MSIX = 0x11 };
static inline void pci_command(u16 bdf, u16 set)
{
    pci_cfg_write16(bdf, PCI_COMMAND, set);
}
/* Both devices with all decoding on, or the guest's end. */
static inline u16 need_pci(u16 device)
{
    int bdf = pci_find(PCI_VENDOR, device);
    if (bdf < 0) {
        printf("FAIL there is no PCI device %04x\n", device);
        finish(254);
    }
    pci_command((u16)bdf, COMMAND_IO | COMMAND_MEM | COMMAND_MASTER);
    return (u16)bdf;
}
#endif
