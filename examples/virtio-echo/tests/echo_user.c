/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver for virtio-echo in user space (virtio 1.2 §4.1, split ring): BAR 0 through sysfs, interrupts (INTx) through
 * uio_pci_generic, memory of its own whose physical addresses /proc/self/pagemap tells. Prints "ok" if all is well.
 * Arguments: the device's folder in sysfs, its /dev/uio file.
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

enum { PAGE = 4096, BAR_SIZE = 0x80000, QUEUE = 64, ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };

#define CHECK(condition, ...) \
  do { \
    if (!(condition)) { \
      printf("line %d: %s: ", __LINE__, #condition); \
      printf(__VA_ARGS__); \
      puts(""); \
      exit(1); \
    } \
  } while (0)

struct common { /* §4.1.4.3 */
  uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
  uint16_t config_vector, num_queues;
  uint8_t status, generation;
  uint16_t queue_select, queue_size, queue_vector, queue_enable, queue_notify_off;
  uint32_t queue_desc[2], queue_driver[2], queue_device[2];
};
struct desc {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};
struct ring { /* a page each */
  struct desc desc[PAGE / sizeof(struct desc)];
  volatile uint16_t avail[PAGE / 2];
  volatile uint16_t used[PAGE / 2];
  uint8_t out[PAGE], in[PAGE];
};

static int config, uio;
static volatile struct common *common;
static volatile uint8_t *isr;
static volatile uint16_t *notify;
static struct ring *ring;

static int open_in(const char *folder, const char *name) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  int fd = open(path, O_RDWR | O_SYNC);
  CHECK(fd >= 0, "%s does not open", path);
  return fd;
}

static uint32_t pci(unsigned at, unsigned size) {
  uint32_t value = 0;
  CHECK(pread(config, &value, size, at) == (ssize_t)size, "config %x", at);
  return value;
}

static void allow_interrupt(void) {
  uint16_t command = (uint16_t)((pci(4, 2) | 0x6) & ~0x400u); /* memory, bus master, INTx not held back */
  CHECK(pwrite(config, &command, 2, 4) == 2, "config");
}

static uint64_t physical(const volatile void *page) {
  uint64_t entry = 0;
  int fd = open("/proc/self/pagemap", O_RDONLY);
  CHECK(pread(fd, &entry, 8, (off_t)((uintptr_t)page / PAGE * 8)) == 8 && entry >> 63, "no physical address");
  close(fd);
  return (entry & ((1ull << 55) - 1)) * PAGE + (uintptr_t)page % PAGE;
}

static void set64(volatile uint32_t *at, uint64_t value) {
  at[0] = (uint32_t)value;
  at[1] = (uint32_t)(value >> 32);
}

static void find(volatile uint8_t *bar) {
  for (unsigned at = pci(0x34, 1); at; at = pci(at + 1, 1)) {
    if (pci(at, 1) != 9 || pci(at + 4, 1) != 0) continue; /* a capability of virtio's, in BAR 0 */
    volatile uint8_t *where = bar + pci(at + 8, 4);
    switch (pci(at + 3, 1)) {
      case 1: common = (volatile struct common *)where; break;
      case 2: notify = (volatile uint16_t *)where; break;
      case 3: isr = where; break;
      default: break;
    }
  }
  CHECK(common && notify && isr, "capabilities");
}

static void start(void) {
  common->status = 0;
  while (common->status) usleep(1000);
  memset(ring, 0, sizeof *ring);
  common->status = ACKNOWLEDGE;
  common->status = ACKNOWLEDGE | DRIVER;
  common->driver_feature_select = 1;
  common->driver_feature = 1; /* VERSION_1 */
  common->driver_feature_select = 0;
  common->driver_feature = 0;
  common->status = ACKNOWLEDGE | DRIVER | FEATURES_OK;
  CHECK(common->status & FEATURES_OK, "status %x", common->status);
  common->queue_select = 0;
  CHECK(common->queue_size == QUEUE, "size %u", common->queue_size);
  set64(common->queue_desc, physical(ring->desc));
  set64(common->queue_driver, physical(ring->avail));
  set64(common->queue_device, physical(ring->used));
  common->queue_enable = 1;
  common->status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
}

/* One request of two pieces there and one back; waits for its interrupt. */
static void echo(uint16_t n, uint32_t length) {
  for (uint32_t i = 0; i < length; i++) ring->out[i] = (uint8_t)(i * 7 + n);
  memset(ring->in, 0xee, PAGE);
  ring->desc[0] = (struct desc){physical(ring->out), length / 2, 1, 1};
  ring->desc[1] = (struct desc){physical(ring->out) + length / 2, length - length / 2, 1, 2};
  ring->desc[2] = (struct desc){physical(ring->in), PAGE, 2, 0};
  ring->avail[2 + n % QUEUE] = 0;
  __sync_synchronize();
  ring->avail[1] = (uint16_t)(n + 1);
  __sync_synchronize();
  *notify = 0;
  uint32_t count;
  struct pollfd waits = {.fd = uio, .events = POLLIN};
  CHECK(poll(&waits, 1, 20000) == 1, "request %u: no interrupt, used index %u", n, ring->used[1]);
  CHECK(read(uio, &count, 4) == 4, "uio");
  CHECK(*isr == 1, "request %u: another interrupt", n);
  CHECK(*isr == 0, "the interrupt stays");
  CHECK(ring->used[1] == (uint16_t)(n + 1), "request %u: used index %u", n, ring->used[1]);
  uint32_t written = *(volatile uint32_t *)&ring->used[2 + 4 * (n % QUEUE) + 2];
  CHECK(written == length, "request %u: %u bytes of %u", n, written, length);
  CHECK(!memcmp(ring->in, ring->out, length), "request %u: other bytes", n);
  CHECK(length == PAGE || ring->in[length] == 0xee, "request %u: more bytes", n);
  allow_interrupt();
}

int main(int argc, char **argv) {
  CHECK(argc == 3, "%d arguments", argc);
  config = open_in(argv[1], "config");
  allow_interrupt();
  volatile uint8_t *bar = mmap(NULL, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, open_in(argv[1], "resource0"), 0);
  CHECK(bar != MAP_FAILED, "mmap");
  uio = open(argv[2], O_RDWR);
  CHECK(uio >= 0, "%s does not open", argv[2]);
  ring = mmap(NULL, sizeof *ring, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  CHECK(ring != MAP_FAILED && !mlock(ring, sizeof *ring), "no memory");
  find(bar);
  for (int round = 0; round < 3; round++) {
    start();
    for (uint16_t n = 0; n < 100; n++) echo(n, n == 99 ? PAGE : 1 + n * 40u);
  }
  common->status = 0;
  puts("ok");
  return 0;
}
