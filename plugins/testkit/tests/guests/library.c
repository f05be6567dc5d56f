/* SPDX-License-Identifier: Apache-2.0 */
/* The library itself: text, memory functions, exceptions, an interrupt to oneself, memory above 4 GiB. */
#include "guest.h"

static void undefined(void *arg) { (void)arg; __asm__ volatile("ud2"); }
static void unmapped(void *arg) { (void)mmio_read32((u64)arg); }
static void nested(void *arg)
{
    int vector = try_call(undefined, 0);
    CHECK(vector == 6, "inner %d", vector);
    unmapped(arg);
}
static void harmless(void *arg) { *(u32 *)arg = 5; }

static volatile u32 taken;
static void on_irq(struct trap_frame *frame) { taken = (u32)frame->vector; }

int main(struct hvm_start_info *si)
{
    const u64 far = 0x8000000000ul;
    char text[8];
    u32 word = 0;

    printf("magic %08x %s %d %lx %c|%5u\n", si->magic, "text", -5, 0x123456789abul, 'c', 42);
    memset(text, 'x', sizeof text);
    memcpy(text, "abc", 4);
    CHECK(strcmp(text, "abc") == 0 && strlen(text) == 3 && text[7] == 'x', "memory functions");
    CHECK(memcmp("abc", "abd", 3) < 0, "memcmp");

    CHECK(try_call(harmless, &word) == -1 && word == 5, "word %u", word);
    int vector = try_call(undefined, 0);
    CHECK(vector == 6, "ud2: %d", vector);
    vector = try_call(unmapped, (void *)far);
    CHECK(vector == 14 && last_exception.cr2 == far, "page fault: %d 0x%lx", vector, last_exception.cr2);
    vector = try_call(nested, (void *)far);
    CHECK(vector == 14, "nested: %d", vector);

    set_irq_handler(0x40, on_irq);
    irq_enable();
    lapic_ipi(lapic_id(), 0x40);
    CHECK(spin_until(&taken, 0x40, 0), "interrupt to oneself: %u", taken);
    lapic_use_x2();
    taken = 0;
    lapic_ipi(lapic_id(), 0x40);
    CHECK(spin_until(&taken, 0x40, 0), "the same by x2APIC: %u", taken);
    irq_disable();
    CHECK(irq_count[0x40] == 2, "count %u", irq_count[0x40]);

    map(far, 4, 1);
    CHECK(try_call(unmapped, (void *)far) == -1, "map did not map");
    return 0;
}
