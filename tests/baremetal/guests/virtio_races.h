/* SPDX-License-Identifier: Apache-2.0 */
/* For virtio_hostile.c: a second CPU that changes rings, and rings bells, while the device is at it. */
#ifndef VIRTIO_RACES_H
#define VIRTIO_RACES_H

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
            if (n % 16 == 0) /* seldom enough that CPU 0 gets its queues right now and then */
                w16(QUEUE_SELECT, (u16)(n / 16 % 5));
            (void)r8(STATUS);
            w16(QUEUE_VECTOR, (u16)(n % 3));
            (void)mmio_read8(isr);
            break;
        default:
            pause();
        }
    }
}

static void set_race(u32 kind)
{
    race = kind;
    WANT(spin_until(&racing, kind, 0));
}

/* Whether queue `q` has our ring if it is one of ours, and is off if not. */
static int as_meant(u32 q)
{
    w16(QUEUE_SELECT, (u16)q);
    if (q >= queues)
        return !r16(QUEUE_ENABLE);
    sizes[q] = r16(QUEUE_SIZE);
    return r16(QUEUE_ENABLE) && sizes[q] && sizes[q] <= SIZE && r32(QUEUE_DESC) == (u32)(u64)vq[q].desc &&
        r32(QUEUE_DRIVER) == (u32)(u64)&vq[q].avail && r32(QUEUE_DEVICE) == (u32)(u64)&vq[q].used &&
        !r32(QUEUE_DESC + 4) && !r32(QUEUE_DRIVER + 4) && !r32(QUEUE_DEVICE + 4);
}

/*
 * Set the queues up while CPU 1 selects others. A ring that has come to lie elsewhere so, at address 0 perhaps, would be
 * this guest's own end: the device may write there. So it goes on only if all is where it should be.
 */
static int bring_up_at_odds(void)
{
    if (!reset_device() || !negotiate(features))
        return 0;
    for (u32 q = 0; q < queues; q++)
        setup_queue(q);
    set_race(0);
    int good = 1;
    for (u32 q = 0; q < r16(NUM_QUEUES); q++)
        good = good && as_meant(q);
    set_race(6);
    if (good)
        w8(STATUS, S_ALL);
    return good;
}

/* With CPU 1 at it: a round of activation and requests, again and again. */
static void race_with(u32 kind, u32 rounds)
{
    if (CPUS < 2)
        return;
    set_race(kind);
    for (u32 n = 0; n < rounds; n++) {
        if (!(kind == 6 ? bring_up_at_odds() : bring_up(features, queues)))
            continue;
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
    set_race(0);
}
CASE(race_of_addresses_and_lengths) { race_with(1, 6); }
CASE(race_of_chains) { race_with(2, 6); }
CASE(race_of_indices) { race_with(3, 6); }
CASE(race_of_indirect_tables) { if (features & F_INDIRECT) race_with(4, 6); }
CASE(race_of_kicks_and_resets) { race_with(5, 6); }
CASE(race_of_registers) { race_with(6, 24); }
#endif
