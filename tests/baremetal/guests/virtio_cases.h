/* SPDX-License-Identifier: Apache-2.0 */
/* For virtio_hostile.c: well-formed requests of each device type, and the malformed ones of single types. */
#ifndef VIRTIO_CASES_H
#define VIRTIO_CASES_H

struct test_case {
    const char *name;
    void (*run)(void);
    u64 device; /* 0: any */
};
#define CASE_OF(type, name) \
    static void case_##name(void); \
    static const struct test_case entry_##name __attribute__((used, section("cases"), aligned(8))) = {#name, case_##name, type}; \
    static void case_##name(void)
#define CASE(name) CASE_OF(0, name)

/* --- what works ------------------------------------------------------------------------------------------ */

struct blk_header { u32 type, reserved; u64 sector; };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { BLK_OK = 0, BLK_IOERR = 1, BLK_UNSUPP = 2, BLK_NOTHING = 0xee };
static volatile struct blk_header header;
static volatile u8 blk_status;

/* A request with `len` bytes of data; its status, or -1 if it does not come back. */
static int blk(u32 type, u64 sector, u64 addr, u32 len, u16 direction)
{
    u32 q = main_queue;
    header = (struct blk_header){type, 0, sector};
    blk_status = BLK_NOTHING;
    put(q, 0, (u64)&header, 16, NEXT, (u16)(len ? 1 : 2));
    put(q, 1, addr, len, (u16)(NEXT | direction), 2);
    put(q, 2, (u64)&blk_status, 1, WRITE, 0);
    u16 before = vq[q].used.idx;
    make_available(q, 0);
    return wait_used(q, (u16)(before + 1)) ? blk_status : -1;
}

/* What the test wrote into the disk: each sector starts with its number. */
static int sector_is(u64 sector)
{
    memset((void *)data, 0, 512);
    if (blk(T_IN, sector, (u64)data, 512, WRITE) != BLK_OK)
        return 0;
    return *(volatile u64 *)data == sector && data[511] == (u8)(sector ^ 0xa5);
}

static int works(void)
{
    u32 q = main_queue;
    switch (device) {
    case BLK:
        if (!sector_is(3))
            return fail("sector 3 is not what it was"), 0;
        return 1;
    case RNG:
        memset((void *)data, 0, 64);
        put(q, 0, (u64)data, 64, WRITE, 0);
        make_available(q, 0);
        if (!wait_used(q, 1) || !vq[q].used.ring[0].len)
            return fail("no random bytes"), 0;
        return 1;
    case ECHO:
        for (u32 n = 0; n < 32; n++)
            data[n] = (u8)(n * 3), data[64 + n] = 0;
        put(q, 0, (u64)data, 32, NEXT, 1);
        put(q, 1, (u64)data + 64, 32, WRITE, 0);
        make_available(q, 0);
        if (!wait_used(q, 1) || vq[q].used.ring[0].len != 32 || memcmp((void *)data, (void *)(data + 64), 32))
            return fail("no echo"), 0;
        return 1;
    case MEM: /* the state of a block at address 0, which is none of the device's (virtio 1.2 §5.15.6) */
        memset((void *)data, 0, 64);
        data[0] = 3, data[16] = 1, data[32] = 0xff;
        put(q, 0, (u64)data, 24, NEXT, 1);
        put(q, 1, (u64)data + 32, 10, WRITE, 0);
        make_available(q, 0);
        if (!wait_used(q, 1) || vq[q].used.ring[0].len != 10 || data[32] != 3)
            return fail("no answer that says error"), 0;
        return 1;
    default: /* net, console: something is sent, the test sees what came out; balloon: pages that are not there */
        memset((void *)data, 0, 128);
        if (device == NET)
            for (u32 n = 12; n < 76; n++)
                data[n] = (u8)(n < 18 ? 0xff : n < 24 ? 2 : n == 24 ? 0x88 : n == 25 ? 0xb5 : 'v');
        else
            memset((void *)data, 'v', 64);
        put(q, 0, (u64)data, device == NET ? 76 : 64, 0, 0);
        make_available(q, 0);
        if (!wait_used(q, 1))
            return fail("nothing was sent"), 0;
        return 1;
    }
}

/* --- blk (virtio 1.2 §5.2.6) ----------------------------------------------------------------------------- */

/* A chain of pieces (address, length, write); whatever comes of it, the disk goes on. */
static void blk_chain(const struct desc *pieces, u32 n)
{
    for (u32 k = 0; k < n; k++)
        put(main_queue, k, pieces[k].addr, pieces[k].len, (u16)(pieces[k].flags | (k + 1 < n ? NEXT : 0)), (u16)(k + 1));
    make_available(main_queue, 0);
    linger();
}
#define BLK_CHAIN(...) \
    do { const struct desc pieces[] = {__VA_ARGS__}; blk_chain(pieces, sizeof pieces / sizeof *pieces); } while (0)
#define HEADER(n) {(u64)&header, n, 0, 0}
#define STATUS_BYTE {(u64)&blk_status, 1, WRITE, 0}

CASE_OF(BLK, blk_unknown_types)
{
    static const u32 types[] = {2, 3, 5, 6, 7, 9, 10, 12, 14, 99, 0x80000000, 0xffffffff};
    for (u32 n = 0; n < sizeof types / sizeof *types; n++)
        WANT(blk(types[n], 0, (u64)data, 512, WRITE) == BLK_UNSUPP || blk_status == BLK_IOERR);
}
CASE_OF(BLK, blk_sectors_beyond_the_end)
{
    static const u64 sectors[] = {DISK_SECTORS, DISK_SECTORS + 1, 1ul << 32, 1ul << 54, 1ul << 55, (1ul << 55) - 1, 1ul << 63, ~0ul};
    for (u32 n = 0; n < 8; n++) {
        WANT(blk(T_IN, sectors[n], (u64)data, 512, WRITE) == BLK_IOERR);
        WANT(blk(T_OUT, sectors[n], (u64)data, 512, 0) == BLK_IOERR);
    }
    WANT(blk(T_IN, DISK_SECTORS - 1, (u64)data, 1024, WRITE) == BLK_IOERR);
    WANT(blk(T_OUT, DISK_SECTORS - 1, (u64)data, 1024, 0) == BLK_IOERR);
    WANT(sector_is(DISK_SECTORS - 1));
}
CASE_OF(BLK, blk_odd_lengths)
{
    static const u32 lengths[] = {1, 511, 513, 1000};
    for (u32 n = 0; n < 4; n++) {
        WANT(blk(T_IN, 0, (u64)data, lengths[n], WRITE) >= 0);
        WANT(blk(T_OUT, 8, (u64)data, lengths[n], 0) == BLK_IOERR);
    }
    WANT(sector_is(8));
}
CASE_OF(BLK, blk_no_data)
{
    WANT(blk(T_IN, 0, 0, 0, 0) >= 0);
    WANT(blk(T_OUT, 0, 0, 0, 0) >= 0);
}
CASE_OF(BLK, blk_wrong_direction)
{
    WANT(blk(T_IN, 0, (u64)data, 512, 0) >= 0); /* a read with nothing to write to */
    WANT(blk(T_OUT, 8, (u64)data, 512, WRITE) >= 0);
    WANT(sector_is(8));
}
CASE_OF(BLK, blk_short_header)
{
    header = (struct blk_header){T_OUT, 0, 8};
    BLK_CHAIN(HEADER(15), STATUS_BYTE);
    BLK_CHAIN(HEADER(1), STATUS_BYTE);
    BLK_CHAIN(HEADER(8), {(u64)data, 512, WRITE, 0}, STATUS_BYTE);
}
CASE_OF(BLK, blk_no_header)
{
    BLK_CHAIN(STATUS_BYTE);
    BLK_CHAIN({(u64)data, 512, WRITE, 0}, STATUS_BYTE);
}
CASE_OF(BLK, blk_no_status)
{
    header = (struct blk_header){T_IN, 0, 0};
    BLK_CHAIN(HEADER(16));
    header.type = T_OUT;
    BLK_CHAIN(HEADER(16), {(u64)data, 512, 0, 0});
    BLK_CHAIN(HEADER(16), {(u64)data, 512, 0, 0}, {(u64)&blk_status, 0, WRITE, 0});
}
CASE_OF(BLK, blk_status_in_the_hole)
{
    header = (struct blk_header){T_IN, 0, 0};
    BLK_CHAIN(HEADER(16), {(u64)data, 512, WRITE, 0}, {HOLE, 1, WRITE, 0});
    want_broken();
}
CASE_OF(BLK, blk_write_from_behind_memory)
{
    header = (struct blk_header){T_OUT, 0, 8};
    BLK_CHAIN(HEADER(16), {RAM_END - 256, 512, 0, 0}, STATUS_BYTE);
    want_broken();
    WANT(bring_up(features, queues));
    WANT(sector_is(8)); /* nothing of the host's memory went to the disk */
}
CASE_OF(BLK, blk_header_in_many_pieces) /* §2.7.4.1: framing is free */
{
    header = (struct blk_header){T_IN, 0, 3};
    memset((void *)data, 0, 512);
    BLK_CHAIN(HEADER(1), {(u64)&header + 1, 14, 0, 0}, {(u64)&header + 15, 1, 0, 0}, {(u64)data, 1, WRITE, 0},
              {(u64)data + 1, 500, WRITE, 0}, {(u64)data + 501, 12, WRITE, 0});
    WANT(wait_used(main_queue, 1));
    WANT(data[0] == 3 && data[511] == (3 ^ 0xa5));
}
CASE_OF(BLK, blk_data_in_many_pieces)
{
    header = (struct blk_header){T_IN, 0, 3};
    blk_status = BLK_NOTHING;
    memset((void *)data, 0, 512);
    put(main_queue, 0, (u64)&header, 16, NEXT, 1);
    for (u16 n = 1; n < 33; n++)
        put(main_queue, n, (u64)data + 16u * (n - 1), 16, NEXT | WRITE, (u16)(n + 1));
    put(main_queue, 33, (u64)&blk_status, 1, WRITE, 0);
    make_available(main_queue, 0);
    WANT(wait_used(main_queue, 1));
    WANT(blk_status == BLK_OK && data[0] == 3 && data[511] == (3 ^ 0xa5));
}
CASE_OF(BLK, blk_discard_and_zeroes_garbage)
{
    static volatile struct { u64 sector; u32 sectors, flags; } s;
    static const u32 lengths[] = {0, 1, 15, 16, 17, 512};
    for (u32 n = 0; n < 6; n++)
        for (u32 type = T_DISCARD; type <= T_WRITE_ZEROES; type += 2) {
            s.sector = ~0ul, s.sectors = 0xffffffff, s.flags = 0xffffffff;
            WANT(blk(type, 0, (u64)&s, lengths[n], 0) != BLK_OK || !lengths[n]);
            s.sector = DISK_SECTORS - 1, s.sectors = 2, s.flags = 0;
            WANT(blk(type, 0, (u64)&s, lengths[n], 0) != BLK_OK || !lengths[n]);
        }
    WANT(sector_is(DISK_SECTORS - 1));
}
CASE_OF(BLK, blk_flush_with_data)
{
    WANT(blk(T_FLUSH, ~0ul, (u64)data, 512, 0) >= 0);
    WANT(blk(T_FLUSH, 0, (u64)data, 512, WRITE) >= 0);
    WANT(blk(T_FLUSH, 0, 0, 0, 0) >= 0);
}
CASE_OF(BLK, blk_id_into_little_room)
{
    static const u32 lengths[] = {1, 19, 20, 21, 512};
    for (u32 n = 0; n < 5; n++) {
        memset((void *)data, 0x77, 1024);
        WANT(blk(T_GET_ID, 0, (u64)data, lengths[n], WRITE) >= 0);
        WANT(data[lengths[n]] == 0x77);
    }
}
CASE_OF(BLK, blk_reset_amid_reads)
{
    for (u32 n = 0; n < 20; n++) {
        WANT(bring_up(features, queues));
        header = (struct blk_header){T_IN, 0, 0};
        put(main_queue, 0, (u64)&header, 16, NEXT, 1);
        put(main_queue, 1, (u64)data, DATA_SIZE, NEXT | WRITE, 2);
        put(main_queue, 2, (u64)&blk_status, 1, WRITE, 0);
        for (u32 k = 0; k < 30; k++)
            make_available(main_queue, 0);
        WANT(reset_device());
        memset((void *)data, 0x33, DATA_SIZE); /* ours again */
        linger();
        for (u32 k = 0; k < DATA_SIZE; k += 512)
            WANT(data[k] == 0x33);
    }
}

/* --- net (§5.1.6) ---------------------------------------------------------------------------------------- */

static void send(u32 len)
{
    put(main_queue, 0, (u64)data, len, 0, 0);
    make_available(main_queue, 0);
    linger();
}
CASE_OF(NET, net_short_headers)
{
    static const u32 lengths[] = {0, 1, 4, 11, 12, 13, 25};
    memset((void *)data, 0, 64);
    for (u32 n = 0; n < 7; n++)
        send(lengths[n]);
}
CASE_OF(NET, net_header_garbage)
{
    for (u32 n = 0; n < 64; n++) {
        for (u32 k = 0; k < 12; k++)
            data[k] = (u8)(n * 7 + k * 31 + (n > 32 ? 0xc0 : 0));
        send(76);
    }
}
CASE_OF(NET, net_offload_out_of_the_frame)
{
    static const u16 values[] = {0, 1, 60, 64, 65, 0x7fff, 0xffff};
    for (u32 n = 0; n < 7; n++)
        for (u32 gso = 0; gso < 6; gso++) {
            memset((void *)data, 0, 12);
            data[0] = 1; /* NEEDS_CSUM */
            data[1] = (u8)(gso == 5 ? 0x84 : gso);
            for (u32 field = 2; field < 10; field += 2) /* hdr_len, gso_size, csum_start, csum_offset */
                *(volatile u16 *)(data + field) = values[n];
            send(76);
        }
}
CASE_OF(NET, net_frame_of_megabytes)
{
    for (u16 n = 0; n < 60; n++)
        put(main_queue, n, 0x100000, 0x100000, n < 59 ? NEXT : 0, (u16)(n + 1));
    make_available(main_queue, 0);
    linger();
}
CASE_OF(NET, net_transmit_that_is_to_be_written)
{
    put(main_queue, 0, (u64)data, 128, WRITE, 0);
    make_available(main_queue, 0);
    linger();
}
CASE_OF(NET, net_receive_without_room)
{
    for (u16 n = 0; n < 4; n++) {
        put(0, n, (u64)data, n, WRITE, 0);
        make_available(0, n);
    }
    put(0, 4, (u64)data, 64, 0, 0); /* that is to be read */
    make_available(0, 4);
    linger();
}
CASE_OF(NET, net_control_garbage)
{
    u64 wanted = features | (offered & (1ul << 17 | 1ul << 18 | 1ul << 19 | 1ul << 23)); /* CTRL_VQ and what goes with it */
    if (!(offered >> 17 & 1))
        return;
    WANT(bring_up(wanted, 3));
    for (u32 n = 0; n < 48; n++) {
        data[0] = (u8)(n % 8), data[1] = (u8)(n / 8);
        data[512] = 0x77;
        put(2, 0, (u64)data, n % 5 ? 2 : n % 3, NEXT, 1);
        put(2, 1, (u64)data + 16, n * 11, NEXT, 2);
        put(2, 2, (u64)data + 512, n % 7 ? 1 : 0, WRITE, 0);
        make_available(2, 0);
    }
    linger();
}

/* --- console (§5.3.6) ------------------------------------------------------------------------------------ */

CASE_OF(CONSOLE, console_transmit_that_is_to_be_written)
{
    put(main_queue, 0, (u64)data, 128, WRITE, 0);
    make_available(main_queue, 0);
    linger();
}
CASE_OF(CONSOLE, console_receive_that_is_to_be_read)
{
    put(0, 0, (u64)data, 128, 0, 0);
    make_available(0, 0);
    put(0, 1, (u64)data, 0, WRITE, 0);
    make_available(0, 1);
    linger();
}
CASE_OF(CONSOLE, console_control_garbage)
{
    if (!(offered & 2)) /* MULTIPORT */
        return;
    WANT(bring_up(features | 2, 4));
    for (u32 n = 0; n < 64; n++) {
        struct { u32 port; u16 event, value; } message = {
            n % 4 == 0 ? 0 : n % 4 == 1 ? 1 : n % 4 == 2 ? 0xffffffff : 0x7fffffff, (u16)(n / 4), (u16)(n & 8 ? 0xffff : 1)};
        memcpy((void *)(data + 16 * (n % 32)), &message, sizeof message);
        put(3, n % 32, (u64)data + 16 * (n % 32), n % 9 ? 8 : n % 13, 0, 0);
        make_available(3, (u16)(n % 32));
    }
    put(3, 40, (u64)data, DATA_SIZE, 0, 0);
    make_available(3, 40);
    put(3, 41, (u64)data, 8, WRITE, 0);
    make_available(3, 41);
    for (u16 n = 0; n < 8; n++) { /* replies have no room */
        put(2, n, (u64)data, n, WRITE, 0);
        make_available(2, n);
    }
    linger();
}

/* --- rng (§5.4) ------------------------------------------------------------------------------------------ */

CASE_OF(RNG, rng_nothing_to_write_to)
{
    put(main_queue, 0, (u64)data, 64, 0, 0);
    make_available(main_queue, 0);
    linger();
}
CASE_OF(RNG, rng_all_of_memory)
{
    for (u16 n = 0; n < 8; n++)
        put(main_queue, n, 0x2000000, 0x800000, (u16)(WRITE | (n < 7 ? NEXT : 0)), (u16)(n + 1));
    make_available(main_queue, 0);
    WANT(wait_used(main_queue, 1));
}
#endif
