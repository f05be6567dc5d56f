/* SPDX-License-Identifier: Apache-2.0 */
/* MSI-X (PCI 3.0 section 6.8.2): enable, mask, pending bits, function mask, and where messages go. */
#include "devices.h"

enum { VECTOR = 0x70, ENABLE = 0x8000, FUNCTION_MASK = 0x4000 };

static u16 dev;
static u64 bar0, table, pba;
static u8 cap;
static volatile u32 taken_by[256]; /* vector -> mask of APIC ids */

static void on_irq(struct trap_frame *f) { atomic_add(&taken_by[f->vector], 1u << (8 * lapic_id())); }

static void control(u16 value) { pci_cfg_write16(dev, cap + 2, value); }
static void set_entry(unsigned n, u32 apic_id, u8 vector, u32 masked)
{
    mmio_write32(table + 16 * n, 0xfee00000 | apic_id << 12);
    mmio_write32(table + 16 * n + 4, 0);
    mmio_write32(table + 16 * n + 8, vector);
    mmio_write32(table + 16 * n + 12, masked);
}
static void mask(unsigned n, u32 masked) { mmio_write32(table + 16 * n + 12, masked); }
static void ring(u32 n) { mmio_write32(bar0 + R_DOORBELL, n); }
static u64 pending(void) { return mmio_read64(pba); }

/* Exactly `want` interrupts on the vector: wait for them, then see that no other follows. */
static void expect(u8 vector, u32 want, const char *what)
{
    irq_enable();
    int came = spin_until(&irq_count[vector], want, want ? 200000 : 2000);
    for (int n = 0; n < 3000; n++)
        pause();
    irq_disable();
    CHECK(came && irq_count[vector] == want, "%s: vector 0x%x taken %u times, not %u", what, vector, irq_count[vector], want);
}

static void registers(void)
{
    u32 table_at = pci_cfg_read32(dev, cap + 4), pba_at = pci_cfg_read32(dev, cap + 8);
    u64 bar = pci_bar_address(dev, MSIX_BAR);
    table = bar + (table_at & ~7u);
    pba = bar + (pba_at & ~7u);
    for (unsigned n = 0; n < MSIX_VECTORS; n++) {
        CHECK(mmio_read32(table + 16 * n + 12) == 1, "vector %u is not masked after reset: 0x%x", n, mmio_read32(table + 16 * n + 12));
        CHECK(mmio_read64(table + 16 * n) == 0 && mmio_read32(table + 16 * n + 8) == 0, "entry %u is not 0 after reset", n);
    }
    CHECK(pending() == 0 && mmio_read32(pba) == 0 && mmio_read32(pba + 4) == 0, "PBA 0x%lx", pending());
    /* Table: dwords and qwords; the PBA cannot be written. */
    mmio_write64(table + 16, 0x00000000fee01000ul);
    CHECK(mmio_read32(table + 16) == 0xfee01000 && mmio_read32(table + 20) == 0, "entry 1: 0x%lx", mmio_read64(table + 16));
    mmio_write64(table + 24, 0x0000000100000042ul);
    CHECK(mmio_read64(table + 24) == 0x0000000100000042ul, "entry 1: 0x%lx", mmio_read64(table + 24));
    mmio_write64(pba, ~0ul);
    CHECK(pending() == 0, "PBA was written: 0x%lx", pending());
    CHECK(pci_cfg_read16(dev, cap + 2) == MSIX_VECTORS - 1, "control 0x%x", pci_cfg_read16(dev, cap + 2));
    control(0xffff);
    CHECK(pci_cfg_read16(dev, cap + 2) == (ENABLE | FUNCTION_MASK | (MSIX_VECTORS - 1)), "control 0x%x", pci_cfg_read16(dev, cap + 2));
    control(0);
}

static void delivery(void)
{
    /* Off: dropped, not kept. */
    set_entry(0, 0, VECTOR, 0);
    ring(0);
    expect(VECTOR, 0, "MSI-X off");
    control(ENABLE);
    expect(VECTOR, 0, "switched on after the signal");
    ring(0);
    expect(VECTOR, 1, "first signal");
    ring(0);
    expect(VECTOR, 2, "second signal");
    CHECK(pending() == 0, "pending after delivery: 0x%lx", pending());

    /* Masked: kept as one pending bit, delivered once on unmasking. */
    mask(0, 1);
    ring(0);
    ring(0);
    ring(0);
    expect(VECTOR, 2, "masked");
    CHECK(pending() == 1 && mmio_read32(pba) == 1, "pending 0x%lx", pending());
    mask(0, 0);
    expect(VECTOR, 3, "unmasked");
    CHECK(pending() == 0, "pending after unmasking: 0x%lx", pending());
    mask(0, 1);
    CHECK(pending() == 0, "pending after masking again: 0x%lx", pending());
    mask(0, 0);
    expect(VECTOR, 3, "unmasked without a signal");
    ring(0);
    expect(VECTOR, 4, "signal after that");

    /* A message changed while masked is the one that is sent. */
    mask(0, 1);
    ring(0);
    mmio_write32(table + 8, VECTOR + 1);
    mask(0, 0);
    expect(VECTOR + 1, 1, "changed while masked");
    expect(VECTOR, 4, "changed while masked, old vector");
    /* Changed while unmasked, in one dword. */
    mmio_write32(table + 8, VECTOR);
    ring(0);
    expect(VECTOR, 5, "changed while unmasked");

    /* Each vector is its own. */
    for (unsigned n = 0; n < MSIX_VECTORS; n++)
        set_entry(n, 0, (u8)(VECTOR + 8 + n), n == 2);
    for (unsigned n = 0; n < MSIX_VECTORS; n++)
        ring(n);
    for (unsigned n = 0; n < MSIX_VECTORS; n++)
        expect((u8)(VECTOR + 8 + n), n != 2, "own vector");
    CHECK(pending() == 4, "pending 0x%lx", pending());

    /* Function mask: all are held, the bits tell which; lifting it sends those that are not masked themselves. */
    control(ENABLE | FUNCTION_MASK);
    ring(1);
    ring(3);
    ring(3);
    expect(VECTOR + 9, 1, "function mask");
    CHECK(pending() == 0xe && mmio_read32(pba) == 0xe, "pending 0x%lx", pending());
    control(ENABLE);
    expect(VECTOR + 9, 2, "function mask lifted");
    expect(VECTOR + 11, 2, "function mask lifted");
    expect(VECTOR + 8, 1, "function mask lifted, no signal");
    CHECK(pending() == 4, "pending 0x%lx", pending());
    mask(2, 0);
    expect(VECTOR + 10, 1, "own mask lifted");
    CHECK(pending() == 0, "pending 0x%lx", pending());

    /* By ECAM, the upper byte of the control word alone. */
    mmio_write8(ecam(dev, cap + 3), (ENABLE | FUNCTION_MASK) >> 8);
    ring(0);
    expect(VECTOR + 8, 1, "function mask by a byte write");
    mmio_write8(ecam(dev, cap + 3), ENABLE >> 8);
    expect(VECTOR + 8, 2, "function mask lifted by a byte write");
}

static volatile u32 up;
static void worker(void *arg)
{
    (void)arg;
    atomic_add(&up, 1);
    for (;;)
        irq_wait();
}

static void targets(void)
{
    for (u32 n = 1; n < CPUS; n++)
        CHECK(smp_start(n, n, worker, 0), "CPU %u did not start", n);
    CHECK(spin_until(&up, CPUS - 1, 0), "%u CPUs", up);
    for (u8 v = 0x90; v < 0x90 + CPUS; v++)
        set_irq_handler(v, on_irq);
    for (u32 n = 0; n < CPUS; n++)
        set_entry(n, n, (u8)(0x90 + n), 0);
    for (u32 n = 0; n < CPUS; n++) {
        ring(n);
        expect((u8)(0x90 + n), 1, "to another CPU");
        CHECK(spin_until(&taken_by[0x90 + n], 1u << (8 * n), 100000), "vector %u was taken by 0x%x", n, taken_by[0x90 + n]);
    }
    /* Move a vector that is in use to another CPU. */
    mask(0, 1);
    ring(0);
    mmio_write32(table, 0xfee00000 | (CPUS - 1) << 12);
    mask(0, 0);
    expect(0x90, 2, "moved to another CPU");
    CHECK(spin_until(&taken_by[0x90], 1u | 1u << (8 * (CPUS - 1)), 100000), "moved vector was taken by 0x%x", taken_by[0x90]);
}

int main(struct hvm_start_info *si)
{
    (void)si;
    dev = need_pci(PCI_A);
    cap = pci_find_capability(dev, CAP_MSIX);
    CHECK(cap, "no MSI-X capability");
    bar0 = pci_bar_address(dev, 0);
    registers();
    delivery();
    targets();
    u32 rung = mmio_read32(bar0 + R_SIGNALS);
    printf("signals %u\n", rung);
    return 0;
}
