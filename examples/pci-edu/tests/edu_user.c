/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver for edu in user space: registers through the sysfs file of BAR 0, interrupts (INTx) through
 * uio_pci_generic, DMA into a page of its own, whose address /proc/self/pagemap tells. Prints "ok" if all is well.
 * Arguments: the device's folder in sysfs, its /dev/uio file, the identification that it is to have.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ID = 0x00, LIVENESS = 0x04, FACTORIAL = 0x08, STATUS = 0x20, IRQ_STATUS = 0x24, IRQ_RAISE = 0x60, IRQ_ACK = 0x64,
       SOURCE = 0x80, TARGET = 0x88, COUNT = 0x90, COMMAND = 0x98, BUFFER = 0x40000, SIZE = 1 << 20, PAGE = 4096 };

#define CHECK(condition, ...) \
  do { \
    if (!(condition)) { \
      printf("line %d: %s: ", __LINE__, #condition); \
      printf(__VA_ARGS__); \
      puts(""); \
      exit(1); \
    } \
  } while (0)

static volatile uint8_t *bar;
static int uio, config;

static uint32_t get(unsigned at) {
  return *(volatile uint32_t *)(bar + at);
}
static void put(unsigned at, uint32_t value) {
  *(volatile uint32_t *)(bar + at) = value;
}
static void put64(unsigned at, uint64_t value) {
  *(volatile uint64_t *)(bar + at) = value;
}

static int open_in(const char *folder, const char *name) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  int fd = open(path, O_RDWR | O_SYNC);
  CHECK(fd >= 0, "%s does not open", path);
  return fd;
}

/* Physical address of a locked page. */
static uint64_t physical(void *page) {
  uint64_t entry = 0;
  int fd = open("/proc/self/pagemap", O_RDONLY);
  CHECK(pread(fd, &entry, 8, (off_t)((uintptr_t)page / PAGE * 8)) == 8, "no pagemap");
  close(fd);
  CHECK(entry >> 63, "the page is not there");
  return (entry & ((1ull << 55) - 1)) * PAGE;
}

static void allow_interrupt(void) {
  uint16_t command;
  CHECK(pread(config, &command, 2, 4) == 2, "config");
  command = (uint16_t)((command | 0x6) & ~0x400); /* memory, bus master, INTx not held back */
  CHECK(pwrite(config, &command, 2, 4) == 2, "config");
}

/* The next interrupt, what it was for, and its end. */
static void expect_interrupt(uint32_t why) {
  uint32_t count;
  struct pollfd waits = {.fd = uio, .events = POLLIN};
  CHECK(poll(&waits, 1, 20000) == 1, "no interrupt");
  CHECK(read(uio, &count, 4) == 4, "uio");
  CHECK(get(IRQ_STATUS) == why, "status %x", get(IRQ_STATUS));
  put(IRQ_ACK, why);
  CHECK(get(IRQ_STATUS) == 0, "still %x", get(IRQ_STATUS));
  allow_interrupt();
  CHECK(poll(&waits, 1, 0) == 0, "an interrupt without a reason");
}

int main(int argc, char **argv) {
  CHECK(argc == 4, "%d arguments", argc);
  config = open_in(argv[1], "config");
  allow_interrupt();
  bar = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, open_in(argv[1], "resource0"), 0);
  CHECK(bar != MAP_FAILED, "mmap");
  uio = open(argv[2], O_RDWR);
  CHECK(uio >= 0, "%s does not open", argv[2]);

  CHECK(get(ID) == strtoul(argv[3], NULL, 16), "%x", get(ID));
  for (uint32_t n = 1; n; n <<= 1) {
    put(LIVENESS, n);
    CHECK(get(LIVENESS) == ~n, "%x", get(LIVENESS));
  }
  CHECK(bar[0] == 0xff && *(volatile uint16_t *)bar == 0xffff, "narrow accesses read as %x", bar[0]);
  CHECK(*(volatile uint64_t *)bar == ~0ull && get(0x1000) == ~0u, "wide accesses, unused places");

  uint32_t product = 1;
  for (uint32_t n = 1; n <= 14; n++) {
    product *= n;
    put(FACTORIAL, n);
    while (get(STATUS) & 1) usleep(100);
    CHECK(get(FACTORIAL) == product, "%u! is %u", n, get(FACTORIAL));
  }
  put(STATUS, 0x80);
  put(FACTORIAL, 6);
  expect_interrupt(1);
  CHECK(get(FACTORIAL) == 720, "%u", get(FACTORIAL));
  put(STATUS, 0);
  for (uint32_t n = 1; n <= 20; n++) {
    put(IRQ_RAISE, n << 8);
    expect_interrupt(n << 8);
  }

  uint8_t *out = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  CHECK(out != MAP_FAILED && !mlock(out, 2 * PAGE), "no memory");
  uint8_t *in = out + PAGE;
  for (int i = 0; i < PAGE; i++) out[i] = (uint8_t)(i * 13 + 5), in[i] = 0xee;
  put64(SOURCE, physical(out));
  put64(TARGET, BUFFER);
  put64(COUNT, PAGE);
  put64(COMMAND, 1);
  while (get(COMMAND) & 1) usleep(100);
  put64(SOURCE, BUFFER + 512);
  put64(TARGET, physical(in) + 8);
  put64(COUNT, 1024);
  put64(COMMAND, 1 | 2 | 4);
  expect_interrupt(0x100);
  CHECK(!memcmp(in + 8, out + 512, 1024), "first byte %x", in[8]);
  CHECK(in[7] == 0xee && in[8 + 1024] == 0xee, "more than that");
  puts("ok");
  return 0;
}
