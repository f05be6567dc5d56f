/* SPDX-License-Identifier: Apache-2.0 */
/* For virtio_hostile.c: accesses to registers, to config space and to BARs that no driver should make. */
#ifndef VIRTIO_REGISTERS_H
#define VIRTIO_REGISTERS_H

/* --- registers --- */

CASE(writes_to_read_only_registers)
{
    u16 number = r16(NUM_QUEUES);
    w16(NUM_QUEUES, 0xffff);
    w32(DEVICE_FEATURE, 0xffffffff);
    w8(GENERATION, 0x55);
    w16(NOTIFY_OFF, 0x1234);
    w16(NOTIFY_DATA, 0x1234);
    mmio_write8(isr, 0xff);
    WANT(r16(NUM_QUEUES) == number);
    WANT(read_offered() == offered);
    want_alive();
}
CASE(odd_accesses_to_registers)
{
    for (u32 at = 0; at < 0x44; at++) {
        (void)mmio_read8(common + at);
        (void)mmio_read16(common + at);
        (void)mmio_read32(common + at);
        (void)mmio_read64(common + at);
        if (at != STATUS)
            mmio_write8(common + at, 0xa5);
        if (at % 2)
            mmio_write16(common + at, 0xa5a5);
        if (at % 4)
            mmio_write32(common + at, 0xa5a5a5a5);
        mmio_write64(common + at, 0xa5a5a5a5a5a5a5a5);
    }
    want_alive();
}
CASE(accesses_all_over_the_bar)
{
    for (u32 at = 0; at < 0x80000; at += 0x1ffc) {
        (void)mmio_read32(bar0 + at);
        (void)mmio_read64(bar0 + at + 1);
        if (at > 0x40 && at < 0x8000)
            mmio_write32(bar0 + at, at);
    }
    (void)mmio_read64(bar0 + 0x7fff8);
    (void)mmio_read64(bar0 + 0x7ffff);
    want_alive();
}
CASE(configuration_space_garbage)
{
    for (u32 at = 0; at < 0x40; at++) {
        (void)mmio_read64(config + at);
        mmio_write8(config + at, 0xff);
        mmio_write32(config + at, 0xdeadbeef);
        mmio_write64(config + at, 0);
    }
    (void)mmio_read64(config + 0x1ff8);
    mmio_write64(config + 0x1ff8, ~0ul);
    want_alive();
}
CASE(notify_of_queues_that_are_not_there)
{
    for (u32 n = 0; n < 0x2000; n += 60) {
        mmio_write16(notify + n, (u16)n);
        mmio_write32(notify + n, 0xffffffff);
        mmio_write8(notify + n + 1, 1);
        (void)mmio_read32(notify + n);
    }
    want_alive();
}
CASE(notify_with_odd_widths)
{
    for (u32 n = 0; n < 4; n++) {
        mmio_write8(notify + main_queue * multiplier + n, 0);
        mmio_write32(notify + main_queue * multiplier + n, 0);
        mmio_write64(notify + main_queue * multiplier + n, 0);
    }
    want_alive();
}
CASE(kick_storm)
{
    for (u32 n = 0; n < 3000; n++)
        kick(n % queues);
    want_alive();
}
CASE(vectors_out_of_range)
{
    static const u16 picks[] = {2048, 2047, 0x7fff, 0x8000, 0xfffe};
    for (u32 n = 0; n < 5; n++) {
        w16(CONFIG_VECTOR, picks[n]);
        WANT(r16(CONFIG_VECTOR) == NO_VECTOR);
        w16(QUEUE_SELECT, (u16)main_queue);
        w16(QUEUE_VECTOR, picks[n]);
        WANT(r16(QUEUE_VECTOR) == NO_VECTOR);
    }
    want_alive();
}
CASE(msix_table_garbage)
{
    u8 cap = pci_find_capability(bdf, CAP_MSIX);
    w16(QUEUE_SELECT, (u16)main_queue);
    w16(QUEUE_VECTOR, 0);
    w16(CONFIG_VECTOR, 1);
    for (u32 at = 0; at < 64; at += 4) /* messages to nowhere, unmasked */
        mmio_write32(bar0 + msix_table + at, at % 16 == 0 ? 0xdead0000 : at % 16 == 4 ? 0xffffffff : 0);
    pci_cfg_write16(bdf, cap + 2, 0x8000);
    put(main_queue, 0, (u64)data, 16, WRITE, 0);
    make_available(main_queue, 0);
    linger();
    pci_cfg_write16(bdf, cap + 2, 0xc000);
    pci_cfg_write16(bdf, cap + 2, 0);
    for (u32 at = 0; at < 64; at += 4)
        mmio_write32(bar0 + msix_table + at, at % 16 == 12);
}

/* --- PCI --- */

CASE(pci_cfg_window_abuse)
{
    static const u32 offsets[] = {0, STATUS + 1, 0x2000, 0x4000, 0x7fff, 0x8000, 0x48000, 0x7ffff, 0x80000, 0xfffffffc, 0xffffffff};
    static const u32 lengths[] = {0, 1, 2, 3, 4, 8, 0xffffffff};
    for (u32 bar = 0; bar < 8; bar++)
        for (u32 o = 0; o < sizeof offsets / sizeof *offsets; o++)
            for (u32 l = bar ? 4 : 0; l < 7; l++) {
                pci_cfg_write8(bdf, (u16)(pci_cfg + 4), (u8)(bar == 7 ? 255 : bar));
                pci_cfg_write32(bdf, (u16)(pci_cfg + 8), offsets[o]);
                pci_cfg_write32(bdf, (u16)(pci_cfg + 12), lengths[l]);
                (void)pci_cfg_read32(bdf, (u16)(pci_cfg + 16));
                pci_cfg_write8(bdf, (u16)(pci_cfg + 17), 0x11);
                if (offsets[o] > STATUS + 1)
                    pci_cfg_write32(bdf, (u16)(pci_cfg + 16), 0xffffffff);
            }
    linger();
}
CASE(pci_cfg_window_resets)
{
    pci_cfg_write8(bdf, (u16)(pci_cfg + 4), 0);
    pci_cfg_write32(bdf, (u16)(pci_cfg + 8), STATUS);
    pci_cfg_write32(bdf, (u16)(pci_cfg + 12), 1);
    pci_cfg_write8(bdf, (u16)(pci_cfg + 16), 0);
    for (u64 start = rdtsc(); pci_cfg_read8(bdf, (u16)(pci_cfg + 16)) && !late(start);)
        pause();
    WANT(r8(STATUS) == 0);
}
CASE(bar_moved_while_it_runs)
{
    u64 away = 0xc8000000;
    put(main_queue, 0, (u64)data, 16, WRITE, 0);
    for (u32 n = 0; n < 20; n++) {
        pci_bar_move(bdf, 0, away);
        mmio_write16(away + (notify - bar0) + main_queue * multiplier, (u16)main_queue);
        WANT(mmio_read8(away + (common - bar0) + STATUS) == r8(STATUS) || r8(STATUS) == 0xff);
        pci_bar_move(bdf, 0, bar0);
        kick(main_queue);
    }
    want_alive();
}
CASE(bar_moved_where_it_cannot_be)
{
    static const u64 picks[] = {0, 0x100000, 0xfee00000, 0xe8000000, 0xfffffffffff80000ul, 0x8000000000000000ul};
    for (u32 n = 0; n < 6; n++) {
        pci_bar_move(bdf, 0, picks[n]);
        linger();
        kick(main_queue);
    }
    pci_bar_move(bdf, 0, bar0);
    want_alive();
}
CASE(decoding_off_while_it_runs)
{
    put(main_queue, 0, (u64)data, 16, WRITE, 0);
    make_available(main_queue, 0);
    pci_cfg_write16(bdf, PCI_COMMAND, COMMAND_MASTER);
    WANT(r8(STATUS) == 0xff);
    kick(main_queue);
    pci_cfg_write16(bdf, PCI_COMMAND, COMMAND_MEM | COMMAND_MASTER);
    want_alive();
}
CASE(bus_master_off)
{
    pci_cfg_write16(bdf, PCI_COMMAND, COMMAND_MEM);
    put(main_queue, 0, (u64)data, 16, WRITE, 0);
    make_available(main_queue, 0);
    linger();
    pci_cfg_write16(bdf, PCI_COMMAND, COMMAND_MEM | COMMAND_MASTER);
}
CASE(config_space_garbage)
{
    for (u32 at = 0x40; at < 0x100; at++)
        pci_cfg_write8(bdf, (u16)at, (u8)(at * 5));
    for (u32 at = 0; at < 4; at++)
        pci_cfg_write8(bdf, (u16)at, 0xff);
    WANT(pci_cfg_read32(bdf, 0) == (0x1af4u | (0x1040u + device) << 16));
    u8 cap = pci_find_capability(bdf, CAP_MSIX);
    pci_cfg_write16(bdf, cap + 2, 0);
    want_alive();
}
#endif
