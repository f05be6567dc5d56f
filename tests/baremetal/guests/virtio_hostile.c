/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that breaks every rule, once each, against virtio device DEVICE. Before each case the device is reset and
 * set up anew, after it the device is reset and has to answer a well-formed request. Prints "CASE name ok", or what
 * went wrong. The cases of single device types are in virtio_cases.h; a second CPU helps where the name says "race".
 */
#include "virtio_driver.h"

static const char *failure;
static u64 features; /* what the cases negotiate */
static u32 queues; /* how many they set up */
static u32 main_queue; /* the one that requests go to */
#define RAM_END ((u64)RAM_MIB << 20)
#define HOLE 0xd0000000ul /* PCI's window: addresses that nobody has */

static void fail(const char *why) { if (!failure) failure = why; }
#define WANT(condition) do { if (!(condition)) fail(#condition); } while (0)

/* The device has noticed that the ring is impossible. */
static void want_broken(void)
{
    if (!wait_status(S_NEEDS_RESET))
        fail("no NEEDS_RESET");
}

/* A little time in which a device can do what it must not. */
static void linger(void)
{
    for (u32 n = 0; n < 30; n++)
        (void)r8(STATUS);
}

static void want_alive(void)
{
    linger();
    if ((r8(STATUS) & (S_NEEDS_RESET | S_OK)) != S_OK)
        fail("NEEDS_RESET for something harmless");
}

#include "virtio_cases.h"

/* --- descriptors and rings ------------------------------------------------------------------------------- */

/* One buffer of `main_queue` that nobody should follow. */
static void one(u64 addr, u32 len, u16 flags, u16 next)
{
    put(main_queue, 0, addr, len, flags, next);
    make_available(main_queue, 0);
    want_broken();
}

/* The same for the device to read, and for it to write. */
static void outside(u64 addr, u32 len)
{
    one(addr, len, 0, 0);
    if (!bring_up(features, queues))
        fail("not up again");
    one(addr, len, WRITE, 0);
}

CASE(loop_of_one) { one((u64)data, 16, NEXT, 0); }
CASE(loop_of_two)
{
    put(main_queue, 1, (u64)data, 16, NEXT, 0);
    one((u64)data, 16, NEXT, 1);
}
CASE(loop_of_empty_buffers)
{
    for (u16 n = 0; n < SIZE; n++)
        put(main_queue, n, (u64)data, 0, NEXT, (u16)((n + 1) % sizes[main_queue]));
    one((u64)data, 0, NEXT, 1);
}
CASE(head_out_of_range)
{
    make_available(main_queue, sizes[main_queue]);
    want_broken();
}
CASE(head_far_out_of_range)
{
    make_available(main_queue, 0xffff);
    want_broken();
}
CASE(next_out_of_range) { one((u64)data, 16, NEXT, sizes[main_queue]); }
CASE(next_far_out_of_range) { one((u64)data, 16, NEXT, 0xffff); }
CASE(avail_index_runs_away)
{
    vq[main_queue].avail.idx = (u16)(sizes[main_queue] + 1);
    kick(main_queue);
    want_broken();
}
CASE(avail_index_runs_far_away)
{
    vq[main_queue].avail.idx = 0x8000;
    kick(main_queue);
    want_broken();
}
CASE(avail_index_goes_back)
{
    vq[main_queue].avail.idx = 0xffff;
    kick(main_queue);
    want_broken();
}
CASE(address_in_the_hole) { outside(HOLE, 64); }
CASE(address_behind_memory) { outside(RAM_END, 1); }
CASE(address_in_the_local_apic) { outside(0xfee00000, 4); }
CASE(address_in_the_ecam) { outside(ECAM_BASE, 4096); }
CASE(address_in_the_devices_own_bar) { outside(bar0 + STATUS, 1); }
CASE(address_at_4_gib) { outside(0x100000000ul, 4096); }
CASE(address_at_the_top) { outside(0xfffffffffffffffful, 1); }
CASE(length_wraps_around) { outside(0xfffffffffffff000ul, 0x2000); }
CASE(length_wraps_into_memory) { outside(0xffffffffff000000ul, 0x01000000u + 0x200000u); }
CASE(length_of_4_gib) { outside((u64)data, 0xffffffff); }
CASE(length_past_the_end_of_memory) { outside(RAM_END - 16, 32); }
CASE(length_past_the_end_by_one) { outside(RAM_END - 4096, 4097); }
CASE(lengths_add_up_to_more_than_4_gib)
{
    u16 n = 0;
    for (; n < SIZE - 1; n++)
        put(main_queue, n, 0, (u32)(RAM_END), NEXT, (u16)(n + 1));
    put(main_queue, n, 0, (u32)RAM_END, 0, 0);
    u32 enough = (u32)((0x100000000ul + RAM_END - 1) / RAM_END);
    make_available(main_queue, 0);
    if (enough < SIZE)
        want_broken();
}
CASE(write_before_read)
{
    put(main_queue, 1, (u64)data + 64, 16, 0, 0);
    one((u64)data, 16, NEXT | WRITE, 1);
}
CASE(unknown_descriptor_flags)
{
    put(main_queue, 0, (u64)data, 16, 0xfff8, 0);
    make_available(main_queue, 0);
    want_alive();
}
CASE(empty_buffers)
{
    put(main_queue, 0, 0, 0, NEXT, 1);
    put(main_queue, 1, HOLE, 0, NEXT | WRITE, 2);
    put(main_queue, 2, ~0ul, 0, WRITE, 0);
    make_available(main_queue, 0);
    want_alive();
}
CASE(the_same_descriptor_twice)
{
    put(main_queue, 0, (u64)data, 16, WRITE, 0);
    vq[main_queue].avail.ring[0] = vq[main_queue].avail.ring[1] = vq[main_queue].avail.ring[2] = 0;
    vq[main_queue].avail.idx = 3;
    kick(main_queue);
    want_alive();
}
CASE(a_full_ring_of_nothing)
{
    for (u16 n = 0; n < sizes[main_queue]; n++)
        vq[main_queue].avail.ring[n] = n;
    vq[main_queue].avail.idx = sizes[main_queue];
    kick(main_queue);
    want_alive();
}
CASE(buffer_over_the_used_ring)
{
    put(main_queue, 0, (u64)&vq[main_queue].used, 64, WRITE, 0);
    make_available(main_queue, 0);
    linger();
}
CASE(buffer_over_the_descriptors)
{
    put(main_queue, 0, (u64)vq[main_queue].desc, sizeof vq[main_queue].desc, WRITE, 0);
    make_available(main_queue, 0);
    linger();
}
CASE(buffer_over_the_avail_ring)
{
    put(main_queue, 0, (u64)&vq[main_queue].avail, 64, WRITE, 0);
    make_available(main_queue, 0);
    linger();
}

/* --- indirect tables --- */

static void indirect(u64 addr, u32 len, u16 flags)
{
    if (features & F_INDIRECT)
        one(addr, len, (u16)(INDIRECT | flags), 1);
}

CASE(indirect_of_no_size) { indirect((u64)table, 0, 0); }
CASE(indirect_of_half_an_entry) { indirect((u64)table, 24, 0); }
CASE(indirect_of_4_gib) { indirect((u64)table, 0xfffffff0, 0); }
CASE(indirect_in_the_hole) { indirect(HOLE, 32, 0); }
CASE(indirect_past_the_end_of_memory) { indirect(RAM_END - 16, 32, 0); }
CASE(indirect_at_the_top) { indirect(~15ul, 32, 0); }
CASE(indirect_with_next)
{
    put_table(0, (u64)data, 16, 0, 0);
    put(main_queue, 1, (u64)data, 16, 0, 0);
    indirect((u64)table, 16, NEXT);
}
CASE(indirect_in_indirect)
{
    put_table(0, (u64)table, 16, INDIRECT, 0);
    indirect((u64)table, 16, 0);
}
CASE(indirect_that_loops)
{
    put_table(0, (u64)data, 0, NEXT, 1);
    put_table(1, (u64)data, 0, NEXT, 0);
    indirect((u64)table, 32, 0);
}
CASE(indirect_whose_next_leaves_it)
{
    put_table(0, (u64)data, 16, NEXT, 1);
    put_table(1, (u64)data, 16, 0, 0);
    indirect((u64)table, 16, 0);
}
CASE(indirect_with_entries_in_the_hole)
{
    put_table(0, HOLE, 16, 0, 0);
    indirect((u64)table, 16, 0);
}
CASE(indirect_without_negotiation)
{
    WANT(bring_up(features & ~F_INDIRECT, queues));
    put_table(0, (u64)data, 16, 0, 0);
    one((u64)table, 16, INDIRECT, 0);
}

/* --- where the rings are --- */

/* Set the main queue up with other addresses or another size; the device must not start with that. */
static void strange_ring(u64 desc, u64 avail, u64 used, u16 size)
{
    WANT(reset_device() && negotiate(features));
    for (u32 q = 0; q < queues; q++) {
        w16(QUEUE_SELECT, (u16)q);
        if (q != main_queue) {
            setup_queue(q);
            continue;
        }
        clear_queue(q);
        w16(QUEUE_SIZE, size);
        set_addresses(desc, avail, used);
        w16(QUEUE_ENABLE, 1);
    }
    w8(STATUS, S_ALL);
}

#define DESC ((u64)vq[main_queue].desc)
#define AVAIL ((u64)&vq[main_queue].avail)
#define USED ((u64)&vq[main_queue].used)
static void no_ring(u64 desc, u64 avail, u64 used)
{
    strange_ring(desc, avail, used, SIZE);
    want_broken();
    kick(main_queue);
    linger();
}

CASE(descriptors_in_the_hole) { no_ring(HOLE, AVAIL, USED); }
CASE(avail_in_the_hole) { no_ring(DESC, HOLE, USED); }
CASE(used_in_the_hole) { no_ring(DESC, AVAIL, HOLE); }
CASE(used_in_the_local_apic) { no_ring(DESC, AVAIL, 0xfee00000); }
CASE(used_past_the_end_of_memory) { no_ring(DESC, AVAIL, RAM_END - 16); }
CASE(descriptors_past_the_end_of_memory) { no_ring(RAM_END - 16, AVAIL, USED); }
CASE(rings_at_the_top) { no_ring(~15ul, ~1ul, ~3ul); }
CASE(rings_beyond_4_gib) { no_ring(1ul << 32, 1ul << 40, 1ul << 63); }
CASE(descriptors_misaligned) { no_ring(DESC + 8, AVAIL, USED); }
CASE(avail_misaligned) { no_ring(DESC, AVAIL + 1, USED); }
CASE(used_misaligned) { no_ring(DESC, AVAIL, USED + 2); }
CASE(size_no_power_of_two)
{
    strange_ring(DESC, AVAIL, USED, 3);
    want_broken();
}
CASE(size_zero)
{
    strange_ring(DESC, AVAIL, USED, 0); /* not taken: the old size stays */
    WANT(ring_size(main_queue) != 0);
    linger();
}
CASE(size_too_large)
{
    u16 most = ring_size(main_queue);
    strange_ring(DESC, AVAIL, USED, 0x8000);
    WANT(ring_size(main_queue) >= most && ring_size(main_queue) <= 1024);
    linger();
}
CASE(used_over_avail)
{
    strange_ring(DESC, AVAIL, AVAIL, SIZE);
    sizes[main_queue] = SIZE;
    put(main_queue, 0, (u64)data, 16, WRITE, 0);
    make_available(main_queue, 0);
    linger();
}
CASE(all_areas_in_one_place)
{
    strange_ring(DESC, DESC, DESC, SIZE);
    for (u32 n = 0; n < 8; n++) {
        vq[main_queue].desc[0].len = 0x00010001u * n;
        kick(main_queue);
    }
    linger();
}
CASE(rings_over_each_other)
{
    WANT(reset_device() && negotiate(features));
    for (u32 q = 0; q < queues; q++) {
        w16(QUEUE_SELECT, (u16)q);
        w16(QUEUE_SIZE, 4);
        set_addresses(DESC, AVAIL, USED);
        w16(QUEUE_ENABLE, 1);
    }
    w8(STATUS, S_ALL);
    put(main_queue, 0, (u64)data, 16, WRITE, 0);
    for (u32 q = 0; q < queues; q++) {
        sizes[q] = 4;
        vq[main_queue].avail.idx++;
        kick(q);
    }
    linger();
}
CASE(rings_over_the_data)
{
    strange_ring((u64)data, (u64)data, (u64)data, SIZE);
    for (u32 n = 0; n < 64; n++) {
        data[n * 7 % 512] = (u8)(n * 37);
        kick(main_queue);
    }
    linger();
}

/* --- life cycle --- */

CASE(driver_ok_without_features_ok)
{
    WANT(reset_device());
    w8(STATUS, S_ACK | S_DRIVER);
    w8(STATUS, S_ACK | S_DRIVER | S_OK);
    WANT(!(r8(STATUS) & S_OK));
    kick(main_queue);
    linger();
}
CASE(driver_ok_alone)
{
    WANT(reset_device());
    w8(STATUS, S_OK);
    linger();
}
CASE(status_of_all_ones)
{
    WANT(reset_device());
    w8(STATUS, 0xff);
    linger();
}
CASE(features_that_are_not_offered)
{
    WANT(reset_device());
    WANT(!negotiate(~0ul));
    WANT(reset_device());
    WANT(!negotiate((offered | F_VERSION_1) ^ 1ul << 50));
    w8(STATUS, S_ALL);
    linger();
    WANT(!(r8(STATUS) & S_OK));
}
CASE(features_without_version_1)
{
    WANT(reset_device());
    WANT(!negotiate(0));
    WANT(reset_device());
    WANT(!negotiate(F_INDIRECT));
}
CASE(features_changed_while_it_runs)
{
    write_features(~0ul);
    write_features(0);
    w8(STATUS, S_ALL);
    want_alive();
}
CASE(driver_ok_without_queues)
{
    WANT(reset_device() && negotiate(features));
    w8(STATUS, S_ALL);
    for (u32 q = 0; q < 8; q++)
        kick(q);
    want_alive();
}
CASE(queues_enabled_before_features_ok)
{
    WANT(reset_device());
    for (u16 q = 0; q < 8; q++) {
        w16(QUEUE_SELECT, q);
        w16(QUEUE_ENABLE, 1);
        WANT(r16(QUEUE_ENABLE) == 0);
    }
}
CASE(queue_select_out_of_range)
{
    static const u16 picks[] = {1023, 1024, 0x7fff, 0x8000, 0xffff};
    WANT(reset_device() && negotiate(features));
    for (u32 n = 0; n < 5; n++) {
        w16(QUEUE_SELECT, picks[n]);
        WANT(r16(QUEUE_SIZE) == 0);
        w16(QUEUE_SIZE, 4);
        set_addresses(DESC, AVAIL, USED);
        w16(QUEUE_VECTOR, 0);
        w16(QUEUE_ENABLE, 1);
        w16(QUEUE_RESET, 1);
        WANT(r16(QUEUE_ENABLE) == 0 && r16(QUEUE_SIZE) == 0);
    }
    w8(STATUS, S_ALL);
    want_alive();
}
CASE(queue_moved_while_it_runs)
{
    w16(QUEUE_SELECT, (u16)main_queue);
    set_addresses(HOLE, HOLE, HOLE);
    w16(QUEUE_SIZE, 2);
    w16(QUEUE_ENABLE, 0);
    WANT(r32(QUEUE_DESC) == (u32)DESC);
    kick(main_queue);
    want_alive();
}
CASE(queue_enabled_while_it_runs)
{
    WANT(bring_up(features, 0));
    linger();
    for (u32 q = 0; q < queues; q++)
        setup_queue(q);
    kick(main_queue);
    want_alive();
}
CASE(queue_reset_again_and_again)
{
    for (u32 n = 0; n < 20; n++) {
        w16(QUEUE_SELECT, (u16)(n % queues));
        w16(QUEUE_RESET, 1);
        w16(QUEUE_ENABLE, 1);
        kick(n % queues);
        w16(QUEUE_RESET, 0);
    }
    linger();
}
CASE(queue_reset_without_negotiation)
{
    WANT(bring_up(features & ~F_RING_RESET, queues));
    w16(QUEUE_SELECT, (u16)main_queue);
    w16(QUEUE_RESET, 1);
    WANT(r16(QUEUE_ENABLE) == 1);
    want_alive();
}
CASE(reset_in_mid_request)
{
    for (u32 n = 0; n < 20; n++) {
        WANT(bring_up(features, queues));
        for (u32 k = 0; k < 8; k++) {
            put(main_queue, k, (u64)data, DATA_SIZE, 0, 0);
            make_available(main_queue, (u16)k);
        }
        w8(STATUS, 0);
        kick(main_queue);
    }
}
CASE(reset_and_on_without_waiting)
{
    for (u32 n = 0; n < 20; n++) {
        w8(STATUS, 0);
        negotiate(features);
        for (u32 q = 0; q < queues; q++)
            setup_queue(q);
        w8(STATUS, S_ALL);
        kick(main_queue);
    }
    linger();
}
CASE(reset_many_times)
{
    for (u32 n = 0; n < 300; n++)
        w8(STATUS, 0);
}
CASE(failed_by_the_driver)
{
    w8(STATUS, S_ALL | S_FAILED);
    kick(main_queue);
    linger();
}
CASE(needs_reset_by_the_driver)
{
    w8(STATUS, S_ALL | S_NEEDS_RESET);
    WANT(!(r8(STATUS) & S_NEEDS_RESET));
    want_alive();
}

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
    for (u32 n = 0; n < 100000 && pci_cfg_read8(bdf, (u16)(pci_cfg + 16)); n++)
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

/* --- packed rings --- */

enum { P_AVAIL = 1 << 7, P_USED = 1 << 15 };
/* desc.flags is the id there, desc.next the flags */
static int packed_up(void)
{
    if (!(offered & F_PACKED))
        return 0;
    WANT(bring_up(features | F_PACKED, queues));
    return 1;
}
static void packed_one(u64 addr, u32 len, u16 flags)
{
    if (!packed_up())
        return;
    put(main_queue, 0, addr, len, 1, (u16)(flags | P_AVAIL));
    kick(main_queue);
    want_broken();
}
CASE(packed_address_in_the_hole) { packed_one(HOLE, 16, 0); }
CASE(packed_length_past_the_end) { packed_one(RAM_END - 16, 32, WRITE); }
CASE(packed_indirect_of_odd_size) { packed_one((u64)table, 17, INDIRECT); }
CASE(packed_indirect_with_next) { packed_one((u64)table, 16, INDIRECT | NEXT); }
CASE(packed_chain_without_an_end)
{
    if (!packed_up())
        return;
    for (u32 n = sizes[main_queue]; n--;) /* the first one last: it makes all available */
        put(main_queue, n, (u64)data, 16, 1, NEXT | P_AVAIL);
    kick(main_queue);
    want_broken();
}
CASE(packed_flags_of_all_kinds)
{
    if (!packed_up())
        return;
    for (u32 n = 0; n < 64; n++) {
        put(main_queue, n % sizes[main_queue], (u64)data, 16, 0xffff, (u16)((n & 1 ? P_AVAIL : 0) | (n & 2 ? P_USED : 0) | (n & 4 ? WRITE : 0)));
        vq[main_queue].avail.flags = (u16)(n * 0x1555);
        vq[main_queue].avail.idx = (u16)n;
        kick(main_queue);
    }
    linger();
}
CASE(packed_event_offsets)
{
    if (!packed_up())
        return;
    for (u32 n = 0; n < sizes[main_queue]; n++) {
        vq[main_queue].avail.flags = (u16)(0x4000 + n); /* the offset, past the ring */
        vq[main_queue].avail.idx = 2;
        put(main_queue, n, (u64)data, 16, (u16)n, WRITE | P_AVAIL);
        kick(main_queue);
    }
    want_alive();
}
CASE(event_index_of_all_kinds)
{
    if (!(offered & F_EVENT_IDX))
        return;
    WANT(bring_up(features | F_EVENT_IDX, queues));
    for (u32 n = 0; n < 40; n++) {
        vq[main_queue].avail.event = (u16)(n * 0x777);
        put(main_queue, n % 4, (u64)data, 16, WRITE, 0);
        make_available(main_queue, (u16)(n % 4));
        if (!wait_used(main_queue, (u16)(n + 1)) && device == ECHO)
            fail("not given back");
    }
    want_alive();
}

/* --- a second CPU that changes everything all the time --- */

static volatile u32 race; /* which one; 0: none */
static volatile u32 racing; /* it has seen that */
static void racer(void *arg)
{
    (void)arg;
    for (u32 n = 0;; n++) {
        racing = race;
        switch (race) {
        case 1: /* addresses and lengths */
            vq[main_queue].desc[0].addr = n & 1 ? (u64)data : HOLE;
            vq[main_queue].desc[0].len = n & 2 ? 16 : 0xffffffff;
            break;
        case 2: /* chains */
            vq[main_queue].desc[0].flags = (u16)(n & 7);
            vq[main_queue].desc[0].next = (u16)(n & 0x7f);
            vq[main_queue].desc[1].flags = (u16)(n & 3);
            break;
        case 3: /* rings */
            vq[main_queue].avail.idx = (u16)n;
            vq[main_queue].avail.ring[n % SIZE] = (u16)(n * 3);
            vq[main_queue].used.idx = (u16)(n * 5);
            break;
        case 4: /* tables and what they point to */
            table[n & 1].len = n & 4 ? 16 : 0x7fffffff;
            table[n & 1].flags = (u16)(n >> 1 & 3);
            table[0].addr = n & 8 ? RAM_END - 8 : (u64)data;
            data[n % 64] = (u8)n;
            break;
        case 5: /* kicks */
            kick(n % queues);
            break;
        case 6: /* registers */
            w16(QUEUE_SELECT, (u16)(n % 5));
            (void)r8(STATUS);
            w16(QUEUE_VECTOR, (u16)(n % 3));
            (void)mmio_read8(isr);
            break;
        default:
            pause();
        }
    }
}

/* With CPU 1 at it: a round of activation and requests, again and again. */
static void race_with(u32 kind, u32 rounds)
{
    if (CPUS < 2)
        return;
    race = kind;
    WANT(spin_until(&racing, kind, 0));
    for (u32 n = 0; n < rounds; n++) {
        bring_up(features, queues);
        for (u32 k = 0; k < 40; k++) {
            if (kind == 4)
                put(main_queue, 0, (u64)table, 32, INDIRECT, 0);
            else if (kind > 2)
                put(main_queue, 0, (u64)data, 64, (u16)(k & 1 ? WRITE : 0), 0);
            else
                vq[main_queue].desc[1] = (struct desc){(u64)data, 64, 0, 0};
            make_available(main_queue, 0);
        }
    }
    race = 0;
    WANT(spin_until(&racing, 0, 0));
}
CASE(race_of_addresses_and_lengths) { race_with(1, 6); }
CASE(race_of_chains) { race_with(2, 6); }
CASE(race_of_indices) { race_with(3, 6); }
CASE(race_of_indirect_tables) { if (features & F_INDIRECT) race_with(4, 6); }
CASE(race_of_kicks_and_resets) { race_with(5, 6); }
CASE(race_of_registers) { race_with(6, 6); }

extern const struct test_case first_case[] __asm__("__start_cases"), last_case[] __asm__("__stop_cases");

static int well(void)
{
    if (!bring_up(features, queues))
        return fail("not up after it"), 0;
    return works();
}

int main(struct hvm_start_info *si)
{
    (void)si;
    if (!find_device(DEVICE)) {
        printf("FAIL there is no virtio device %u\n", DEVICE);
        return 254;
    }
    offered = read_offered();
    features = offered & (F_VERSION_1 | F_INDIRECT | F_RING_RESET);
    w16(QUEUE_SELECT, 0);
    queues = r16(NUM_QUEUES) < 2 ? r16(NUM_QUEUES) : 2;
    main_queue = DEVICE == NET || DEVICE == CONSOLE;
    if (CPUS > 1)
        CHECK(smp_start(1, 1, racer, 0), "no second CPU");
    if (!well()) {
        printf("FAIL it does not work to begin with: %s\n", failure);
        return 253;
    }
    u32 bad = 0, n = 0;
    for (const struct test_case *c = first_case; c < last_case; c++, n++) {
        if (c->device && c->device != DEVICE)
            continue;
        failure = 0;
        memset((void *)data, 0x5a, sizeof data);
        if (!bring_up(features, queues))
            fail("not up before it");
        c->run();
        race = 0;
        if (!reset_device())
            fail("no reset");
        well();
        if (failure)
            bad++;
        printf("CASE %s %s%s\n", c->name, failure ? "FAILED: " : "ok", failure ? failure : "");
    }
    return bad ? 1 : 0;
}
