/* SPDX-License-Identifier: Apache-2.0 */
/* Text output, checks, memory functions, paging, and the way from start.S to main and to the end. */
#include "guest.h"
#include "internal.h"

int main(struct hvm_start_info *si);

enum { COM1 = 0x3f8, LSR = 5, LSR_THR_EMPTY = 0x20, PIC1_MASK = 0x21, PIC2_MASK = 0xa1, SLEEP_PORT = 0x600, SLEEP_S5 = 5 << 2 | 1 << 5 };

u32 failures;
static volatile u32 text_lock;

void putchar(int c)
{
    /* Bounded: a machine without COM1 must not hang the guest here. */
    for (int i = 0; i < 100000 && !(inb(COM1 + LSR) & LSR_THR_EMPTY); i++)
        pause();
    outb(COM1, (u8)c);
}

void puts(const char *text)
{
    while (*text)
        putchar(*text++);
}

static void put_number(u64 n, unsigned base, int width, char fill, int negative)
{
    char digits[24];
    int used = 0;
    do {
        digits[used++] = "0123456789abcdef"[n % base];
        n /= base;
    } while (n);
    if (negative)
        digits[used++] = '-';
    for (; width > used; width--)
        putchar(fill);
    while (used)
        putchar(digits[--used]);
}

static void print(const char *f, va_list args)
{
    for (; *f; f++) {
        if (*f != '%') {
            putchar(*f);
            continue;
        }
        f++;
        char fill = *f == '0' ? '0' : ' ';
        int width = 0, is_long = 0;
        while (*f >= '0' && *f <= '9')
            width = width * 10 + *f++ - '0';
        while (*f == 'l' || *f == 'z') {
            is_long = 1;
            f++;
        }
        switch (*f) {
        case 's': puts(va_arg(args, const char *)); break;
        case 'c': putchar(va_arg(args, int)); break;
        case 'p': puts("0x"); put_number((u64)va_arg(args, void *), 16, width, fill, 0); break;
        case 'd': {
            int64_t n = is_long ? va_arg(args, int64_t) : va_arg(args, int);
            put_number(n < 0 ? -(u64)n : (u64)n, 10, width, fill, n < 0);
            break;
        }
        case 'u':
        case 'x':
            put_number(is_long ? va_arg(args, u64) : va_arg(args, u32), *f == 'u' ? 10 : 16, width, fill, 0);
            break;
        case 0: return;
        default: putchar(*f);
        }
    }
}

void printf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    spin_lock(&text_lock);
    print(format, args);
    spin_unlock(&text_lock);
    va_end(args);
}

void check_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list args;
    atomic_add(&failures, 1);
    va_start(args, format);
    spin_lock(&text_lock);
    for (const char *c = file; *c; c++)
        if (*c == '/')
            file = c + 1;
    puts("FAIL ");
    puts(file);
    putchar(':');
    put_number((u64)line, 10, 0, ' ', 0);
    puts(": ");
    puts(condition);
    puts(": ");
    print(format, args);
    putchar('\n');
    spin_unlock(&text_lock);
    va_end(args);
}

void finish(int status)
{
    irq_disable();
    text_lock = 0; /* whoever held it is not going on */
    printf("\nEXIT:%d\n", status);
    outb(SLEEP_PORT, SLEEP_S5);
    for (;;)
        __asm__ volatile("hlt");
}

void guest_start(struct hvm_start_info *si)
{
    cpu_init(0);
    /* A machine with a PC's interrupt controllers would deliver its timer as vector 8, a double fault. */
    outb(PIC1_MASK, 0xff);
    outb(PIC2_MASK, 0xff);
    lapic_enable();
    int status = main(si);
    finish(status ? status : failures > 200 ? 200 : (int)failures);
}

void *memset(void *to, int byte, size_t n)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, size_t n)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    return start;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const u8 *x = a, *y = b;
    for (; n; n--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (u8)*a - (u8)*b;
}

int spin_until(volatile u32 *word, u32 value, u64 spins)
{
    for (u64 i = 0; i < (spins ? spins : 20000000); i++) {
        if (*word == value)
            return 1;
        pause();
    }
    return 0;
}

void spin_lock(volatile u32 *lock)
{
    u32 taken = 1;
    for (;;) {
        __asm__ volatile("xchgl %0, %1" : "+r"(taken), "+m"(*lock)::"memory");
        if (!taken)
            return;
        pause();
    }
}

void spin_unlock(volatile u32 *lock)
{
    __asm__ volatile("movl $0, %0" : "=m"(*lock)::"memory");
}

/* --- paging (SDM vol. 3 ch. 4): tables from a small pool, 2 MiB pages ------------------------------------- */
enum { PRESENT = 1, WRITABLE = 2, UNCACHED = 0x18, LARGE = 0x80, TABLES = 60 };
#define ADDRESS 0x000ffffffffff000ul
static u64 tables[TABLES][512] __attribute__((aligned(4096)));
static u32 tables_used;

static u64 *next_level(u64 *entry)
{
    if (!(*entry & PRESENT)) {
        if (tables_used == TABLES) {
            puts("FAIL map: no page tables left\n");
            finish(255);
        }
        *entry = (u64)tables[tables_used++] | PRESENT | WRITABLE;
    }
    return (u64 *)(*entry & ADDRESS);
}

void *map(u64 address, u64 size, int uncached)
{
    const u64 step = 0x200000;
    for (u64 page = address & ~(step - 1); page < address + size; page += step) {
        u64 *pointers = next_level(&page_root[page >> 39 & 511]);
        u64 *directory = next_level(&pointers[page >> 30 & 511]);
        directory[page >> 21 & 511] = page | PRESENT | WRITABLE | LARGE | (uncached ? UNCACHED : 0);
        __asm__ volatile("invlpg (%0)" ::"r"(page) : "memory");
    }
    return (void *)address;
}
