/* SPDX-License-Identifier: Apache-2.0 */
/* Port I/O of every size, single and by string instructions, where there is a handler and where there is none. */
#include "devices.h"

enum { NOBODY = 0x2d0 };

static u32 in(u16 port, unsigned size)
{
    return size == 1 ? inb(port) : size == 2 ? inw(port) : inl(port);
}
static void out(u16 port, unsigned size, u32 value)
{
    if (size == 1)
        outb(port, (u8)value);
    else if (size == 2)
        outw(port, (u16)value);
    else
        outl(port, value);
}

#define STRING(name, direction) \
    static void name(u16 port, unsigned size, void *buffer, u64 count) \
    { \
        if (size == 1) \
            __asm__ volatile("rep " direction "b" : "+" REGISTER(buffer), "+c"(count) : "d"(port) : "memory"); \
        else if (size == 2) \
            __asm__ volatile("rep " direction "w" : "+" REGISTER(buffer), "+c"(count) : "d"(port) : "memory"); \
        else \
            __asm__ volatile("rep " direction "l" : "+" REGISTER(buffer), "+c"(count) : "d"(port) : "memory"); \
        CHECK(count == 0, "%s of size %u left %lu", #name, size, count); \
    }
#define REGISTER(b) "D"(b)
STRING(rep_in, "ins")
#undef REGISTER
#define REGISTER(b) "S"(b)
STRING(rep_out, "outs")

static void check_entry(u64 n, u64 is_write, u64 offset, u64 size, u64 value)
{
    struct logged e = log_entry(n);
    CHECK(e.region == 1 && e.is_write == is_write && e.offset == offset && e.size == size && e.value == value,
          "access %lu: region %lu write %lu offset %lu size %lu value 0x%lx, not write %lu offset %lu size %lu value 0x%lx",
          n, e.region, e.is_write, e.offset, e.size, e.value, is_write, offset, size, value);
}

static void single(unsigned size)
{
    for (unsigned at = 0; at < 8; at++) {
        int inside = at + size <= 8;
        u32 value = 0x81a2c3e4 + at;
        log_clear();
        u32 got = in((u16)(LOGGED_PORTS + at), size);
        CHECK(got == (inside ? log_pattern(at, size) : ones(size)), "in of %u at %u: 0x%x", size, at, got);
        out((u16)(LOGGED_PORTS + at), size, value);
        CHECK(log_count() == (inside ? 2 : 0), "size %u at %u: %lu accesses", size, at, log_count());
        if (inside) {
            check_entry(0, 0, at, size, 0);
            check_entry(1, 1, at, size, value & ones(size));
        }
    }
    /* An access that begins before the region is not the region's either. */
    log_clear();
    if (size > 1) {
        CHECK(in(LOGGED_PORTS - 1, size) == ones(size), "in of %u before the region", size);
        out(LOGGED_PORTS - 1, size, 0);
    }
    CHECK(in(LOGGED_PORTS + 8, size) == ones(size), "in of %u behind the region", size);
    out(LOGGED_PORTS + 8, size, 0);
    CHECK(log_count() == 0, "size %u around the region: %lu accesses", size, log_count());
}

static void nobody(unsigned size)
{
    static const u16 ports[] = {NOBODY, NOBODY + 1, 0x0, 0x2e8, 0x500, 0x5ff, 0xfff, 0x1001, 0x8000, 0xfffc, 0xffff};
    for (unsigned n = 0; n < sizeof ports / sizeof *ports; n++) {
        if (ports[n] == 0xffff && size > 1)
            continue; /* runs over the end of the space: undefined */
        u32 before = in(ports[n], size);
        out(ports[n], size, 0x12345678);
        u32 after = in(ports[n], size);
        CHECK(before == ones(size) && after == ones(size), "port 0x%x size %u: 0x%x, then 0x%x", ports[n], size, before, after);
    }
}

static void strings(unsigned size)
{
    static u8 buffer[256], source[256];
    const u64 count = 20;
    for (unsigned n = 0; n < sizeof source; n++)
        source[n] = (u8)(n * 13 + 1);
    log_clear();
    memset(buffer, 0xcc, sizeof buffer);
    rep_in(LOGGED_PORTS + 4, size, buffer, count);
    for (unsigned n = 0; n < count; n++) {
        u32 got = 0;
        memcpy(&got, buffer + n * size, size);
        CHECK(got == log_pattern(4, size), "rep ins of %u, piece %u: 0x%x", size, n, got);
    }
    CHECK(buffer[count * size] == 0xcc, "rep ins of %u wrote too far", size);
    CHECK(log_count() == count, "rep ins of %u: %lu accesses", size, log_count());
    log_clear();
    rep_out(LOGGED_PORTS + 4, size, source, count);
    CHECK(log_count() == count, "rep outs of %u: %lu accesses", size, log_count());
    for (unsigned n = 0; n < count; n++) {
        u32 want = 0;
        memcpy(&want, source + n * size, size);
        check_entry(n, 1, 4, size, want);
    }
    /* Backwards, from an odd address. */
    log_clear();
    u8 *end = source + 1 + 3 * size;
    u64 left = 3;
    if (size == 1)
        __asm__ volatile("std; rep outsb; cld" : "+S"(end), "+c"(left) : "d"(LOGGED_PORTS) : "memory");
    else if (size == 2)
        __asm__ volatile("std; rep outsw; cld" : "+S"(end), "+c"(left) : "d"(LOGGED_PORTS) : "memory");
    else
        __asm__ volatile("std; rep outsl; cld" : "+S"(end), "+c"(left) : "d"(LOGGED_PORTS) : "memory");
    for (unsigned n = 0; n < 3; n++) {
        u32 want = 0;
        memcpy(&want, source + 1 + (3 - n) * size, size);
        check_entry(n, 1, 0, size, want);
    }
    /* Nobody there: all ones, for every piece. */
    memset(buffer, 0, sizeof buffer);
    rep_in(NOBODY, size, buffer, count);
    for (unsigned n = 0; n < count * size; n++)
        CHECK(buffer[n] == 0xff, "rep ins of %u from nobody, byte %u: 0x%x", size, n, buffer[n]);
    CHECK(buffer[count * size] == 0, "rep ins of %u from nobody wrote too far", size);
    rep_out(NOBODY, size, source, count);
    /* A count of 0 does nothing. */
    log_clear();
    rep_in(LOGGED_PORTS, size, buffer, 0);
    rep_out(LOGGED_PORTS, size, buffer, 0);
    CHECK(log_count() == 0, "rep with count 0: %lu accesses", log_count());
}

int main(struct hvm_start_info *si)
{
    (void)si;
    for (unsigned size = 1; size <= 4; size *= 2) {
        single(size);
        nobody(size);
        strings(size);
    }
    return 0;
}
