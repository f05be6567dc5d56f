/* SPDX-License-Identifier: Apache-2.0 */
/* The ends that a guest can come to: HOW is one of the below. */
#include "guest.h"

enum { OFF, TRIPLE, FETCH_NOWHERE, TRIPLE_ON_SECOND, NOT_AN_END };

static void triple(void *arg)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) none = {0, 0};
    (void)arg;
    __asm__ volatile("lidt %0; ud2" ::"m"(none));
}

int main(struct hvm_start_info *si)
{
    (void)si;
    puts("HERE\n");
    switch (HOW) {
    case OFF: outb(0x600, 5 << 2 | 1 << 5); break;
    case TRIPLE: triple(0); break;
    case FETCH_NOWHERE: ((void (*)(void))0xd0000000ul)(); break;
    case TRIPLE_ON_SECOND:
        smp_start(1, 1, triple, 0);
        for (;;)
            __asm__ volatile("hlt");
    default:
        /* Looks like it, but is not. */
        outb(0x600, 0);
        outb(0x600, 5 << 2);
        outb(0x600, 1 << 5);
        outb(0x600, 3 << 2 | 1 << 5); /* S3 */
        outb(0x600, 2);
        outw(0x600, 1);
        outl(0x600, 0x34);
        outb(0x601, 1);
        outb(0x64, 0xff);
        outb(0x64, 0xd1);
        outw(0x64, 0xfe);
        outb(0x61, 0xfe);
        outb(0xcf9, 0);
        CHECK(inb(0x600) == 0, "sleep status 0x%x", inb(0x600));
        CHECK(inb(0x61) == 0x20 && inb(0x64) == 0, "keyboard controller 0x%x 0x%x", inb(0x61), inb(0x64));
        return 3; /* the guest's own status; the VMM's is 0 */
    }
    for (;;)
        __asm__ volatile("hlt");
}
