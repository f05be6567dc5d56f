/* SPDX-License-Identifier: Apache-2.0 */
/* For virtio_hostile.c: descriptors, indirect tables and rings that no driver should make. */
#ifndef VIRTIO_RINGS_H
#define VIRTIO_RINGS_H

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
CASE(address_at_4_gib)
{
    if (device != MEM) /* which has its region there */
        outside(0x100000000ul, 4096);
}
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
#endif
