/* SPDX-License-Identifier: Apache-2.0 */
/* Memory-mapped I/O of every size and alignment, on a device and where there is none. */
#include "devices.h"

static u64 rd(u64 at, unsigned size)
{
    switch (size) {
    case 1: return mmio_read8(at);
    case 2: return mmio_read16(at);
    case 4: return mmio_read32(at);
    default: return mmio_read64(at);
    }
}
static void wr(u64 at, unsigned size, u64 value)
{
    switch (size) {
    case 1: mmio_write8(at, (u8)value); break;
    case 2: mmio_write16(at, (u16)value); break;
    case 4: mmio_write32(at, (u32)value); break;
    default: mmio_write64(at, value);
    }
}

static void claimed(u64 base, u64 region, unsigned at, unsigned size)
{
    const u64 value = 0xf1e2d3c4b5a69788ul + at;
    log_clear();
    u64 got = rd(base + at, size);
    CHECK(got == log_pattern(at, size), "read of %u at 0x%x: 0x%lx", size, at, got);
    wr(base + at, size, value);
    CHECK(log_count() == 2, "size %u at 0x%x: %lu accesses", size, at, log_count());
    for (u64 n = 0; n < 2; n++) {
        struct logged e = log_entry(n);
        CHECK(e.region == region && e.is_write == n && e.offset == at && e.size == size &&
                  e.value == (n ? value & ones(size) : 0),
              "access %lu: region %lu write %lu offset 0x%lx size %lu value 0x%lx; was size %u at 0x%x", n, e.region,
              e.is_write, e.offset, e.size, e.value, size, at);
    }
}

static void unclaimed(u64 at, unsigned size)
{
    u64 before = rd(at, size);
    wr(at, size, 0x0123456789abcdef);
    u64 after = rd(at, size);
    CHECK(before == ones(size) && after == ones(size), "0x%lx size %u: 0x%lx, then 0x%lx", at, size, before, after);
}

static void instructions(void)
{
    /* Read-modify-write and string moves: every part of them must reach the device. */
    log_clear();
    __asm__ volatile("orl $0x10000000, (%0)" ::"r"(LOGGED_MMIO + 0x40) : "memory");
    struct logged e = log_entry(1);
    CHECK(log_count() == 2 && e.is_write && e.size == 4 && e.offset == 0x40 &&
              e.value == ((log_pattern(0x40, 4) | 0x10000000) & 0xffffffff),
          "or: %lu accesses, value 0x%lx", log_count(), e.value);
    u8 buffer[16];
    void *to = buffer;
    u64 from = LOGGED_MMIO + 0x80, count = 4;
    log_clear();
    __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count)::"memory");
    u64 low, high, want_low = log_pattern(0x80, 8), want_high = log_pattern(0x88, 8);
    memcpy(&low, buffer, 8);
    memcpy(&high, buffer + 8, 8);
    CHECK(log_count() == 4 && low == want_low && high == want_high, "rep movs: %lu accesses, 0x%lx 0x%lx", log_count(), low, high);
    u64 wide;
    __asm__ volatile("movzbl (%1), %k0" : "=r"(wide) : "r"(LOGGED_MMIO + 0x11) : "memory");
    CHECK(wide == log_pattern(0x11, 1), "movzx: 0x%lx", wide);
    __asm__ volatile("movslq (%1), %0" : "=r"(wide) : "r"(LOGGED_MMIO + 0x11) : "memory");
    CHECK(wide == (u64)(int64_t)(int32_t)log_pattern(0x11, 4), "movsxd: 0x%lx", wide);
    log_clear();
    u32 swap = 0xabcdef01;
    __asm__ volatile("xchgl %0, (%1)" : "+r"(swap) : "r"(LOGGED_MMIO + 0x20) : "memory");
    e = log_entry(log_count() - 1);
    CHECK(swap == log_pattern(0x20, 4) && e.is_write && e.value == 0xabcdef01, "xchg: 0x%x, 0x%lx", swap, e.value);
}

int main(struct hvm_start_info *si)
{
    static const u64 empty[] = {0xc8000000ul, 0xe7fff000ul, 0xfed40000ul, 0xfed51000ul, 0xfec80000ul, 0xfee01000ul,
                                0xff000000ul, 0xffffff00ul, 0x180000000ul, 0xff0000000ul};
    (void)si;
    map(0x180000000ul, 0x200000, 1);
    map(0xff0000000ul, 0x200000, 1);
    for (unsigned size = 1; size <= 8; size *= 2) {
        for (unsigned at = 0; at < 17; at++)
            claimed(LOGGED_MMIO, 2, at, size);
        claimed(LOGGED_MMIO, 2, 0x800 - size, size);
        claimed(LOGGED_MMIO + 0x800, 3, 0, size);
        claimed(LOGGED_MMIO + 0x800, 3, 0x800 - size, size);
        for (unsigned n = 0; n < sizeof empty / sizeof *empty; n++)
            for (unsigned at = 0; at < 8; at += 3)
                unclaimed(empty[n] + at, size);
        /* Over the end of a region, into the next one or into nothing: nobody's. */
        for (unsigned over = 1; over < size; over++) {
            log_clear();
            unclaimed(LOGGED_MMIO + 0x800 - over, size);
            CHECK(log_count() == 0, "size %u over the end by %u: %lu accesses", size, size - over, log_count());
        }
        /* Over the end of a page the CPU makes two accesses of it: the device sees its part. */
        if (size > 1) {
            unsigned half = size / 2;
            log_clear();
            u64 got = rd(LOGGED_MMIO + 0x1000 - half, size);
            u64 want = log_pattern(0x800 - half, half) | ones(half) << (8 * half);
            struct logged e = log_entry(0);
            CHECK(got == want && e.region == 3 && e.size == half && e.offset == 0x800 - half,
                  "size %u over the end of the page: 0x%lx, not 0x%lx; offset 0x%lx size %lu", size, got, want, e.offset, e.size);
        }
    }
    instructions();
    return 0;
}
