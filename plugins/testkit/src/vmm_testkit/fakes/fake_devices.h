/* SPDX-License-Identifier: Apache-2.0 */
/*
 * More of the core than fake_core.h has, for a device with registers: a bus with one region, interrupt lines, and a
 * byte stream of the host whose room the test sets. devices_begin() puts them into fake_api.
 */
#ifndef FAKE_DEVICES_H
#define FAKE_DEVICES_H

#include "fake_core.h"

#include <fcntl.h>

static struct {
  pthread_mutex_t lock;
  /* the bus */
  vmm_io_fn io;
  void *io_opaque;
  int space;
  uint64_t base, len;
  unsigned mapped;
  /* interrupts */
  int irq_fd;
  uint32_t gsi;
  int level;
  unsigned rises;
  /* the host's stream */
  vmm_rx_fn rx;
  void *rx_opaque;
  size_t room, sent_len;
  uint8_t sent[1 << 16];
  unsigned kicks, open_chardevs;
  /* what is to go wrong */
  int fail_bus, fail_irqfd, fail_chardev;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline int fake_bus_add(vmm_vm *vm, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *opaque) {
  (void)vm;
  if (fake.fail_bus) return -EEXIST;
  CHECK(!fake.mapped);
  fake.space = space, fake.base = base, fake.len = len;
  fake.io = fn, fake.io_opaque = opaque, fake.mapped++;
  return 0;
}

static inline int fake_bus_del(vmm_vm *vm, int space, uint64_t base) {
  (void)vm;
  CHECK(space == fake.space && base == fake.base && fake.mapped);
  fake.mapped--;
  return 0;
}

static inline int fake_irqfd_open(vmm_vm *vm, uint32_t gsi) {
  (void)vm;
  fake.gsi = gsi;
  return fake.fail_irqfd ? -EMFILE : (fake.irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

static inline void fake_irqfd_close(vmm_vm *vm, uint32_t gsi, int fd) {
  (void)vm;
  CHECK(gsi == fake.gsi && fd == fake.irq_fd);
  close(fd);
}

static inline int fake_irq_level(vmm_vm *vm, uint32_t gsi, unsigned source, int level) {
  (void)vm;
  CHECK(source < 64);
  pthread_mutex_lock(&fake.lock);
  fake.gsi = gsi;
  if (level && !fake.level) fake.rises++;
  fake.level = level;
  pthread_mutex_unlock(&fake.lock);
  return 0;
}

static inline vmm_chardev *fake_chardev_open(vmm_vm *vm, int in_fd, int out_fd, uint32_t flags, vmm_rx_fn rx,
                                             void *opaque) {
  (void)vm, (void)flags;
  close(in_fd);
  if (out_fd != in_fd) close(out_fd);
  if (fake.fail_chardev) return NULL;
  fake.rx = rx, fake.rx_opaque = opaque, fake.open_chardevs++;
  return (vmm_chardev *)&fake;
}

static inline size_t fake_chardev_write(vmm_chardev *dev, const uint8_t *data, size_t len) {
  (void)dev;
  pthread_mutex_lock(&fake.lock);
  if (len > fake.room) len = fake.room;
  if (len > sizeof fake.sent - fake.sent_len) len = sizeof fake.sent - fake.sent_len;
  memcpy(fake.sent + fake.sent_len, data, len);
  fake.sent_len += len;
  fake.room -= len;
  pthread_mutex_unlock(&fake.lock);
  return len;
}

static inline void fake_chardev_kick(vmm_chardev *dev) {
  (void)dev;
  __atomic_add_fetch(&fake.kicks, 1, __ATOMIC_SEQ_CST);
}

static inline void fake_chardev_close(vmm_chardev *dev) {
  (void)dev;
  fake.open_chardevs--;
}

static inline void devices_begin(void) {
  fake_api.bus_add = fake_bus_add, fake_api.bus_del = fake_bus_del;
  fake_api.irqfd_open = fake_irqfd_open, fake_api.irqfd_close = fake_irqfd_close;
  fake_api.irq_level = fake_irq_level;
  fake_api.chardev_open = fake_chardev_open, fake_api.chardev_write = fake_chardev_write;
  fake_api.chardev_kick = fake_chardev_kick, fake_api.chardev_close = fake_chardev_close;
}

/* --- the guest --- */

static inline void guest_write(uint64_t offset, uint64_t value, uint32_t size) {
  CHECK(fake.mapped && offset + size <= fake.len);
  fake.io(fake.io_opaque, offset, &value, size, 1);
}

static inline uint64_t guest_read(uint64_t offset, uint32_t size) {
  uint64_t value = ~0ull;
  CHECK(fake.mapped && offset + size <= fake.len);
  fake.io(fake.io_opaque, offset, &value, size, 0);
  return size == 8 ? value : value & ((1ull << 8 * size) - 1);
}

static inline void out32(uint64_t offset, uint32_t value) { guest_write(offset, value, 4); }
static inline uint32_t in32(uint64_t offset) { return (uint32_t)guest_read(offset, 4); }

/* Edges since the last call, of the line that was opened as an eventfd. */
static inline uint64_t edges(void) {
  uint64_t n = 0;
  return read(fake.irq_fd, &n, sizeof n) < 0 ? 0 : n;
}

/* --- the host --- */

static inline size_t host_sends(const char *text, size_t len) {
  return fake.rx(fake.rx_opaque, (const uint8_t *)text, len);
}

static inline void host_has_room(size_t room) {
  pthread_mutex_lock(&fake.lock);
  fake.room = room;
  pthread_mutex_unlock(&fake.lock);
  fake.rx(fake.rx_opaque, NULL, 0);
}

static inline bool host_got(const char *text) {
  size_t len = strlen(text);
  return fake.sent_len == len && !memcmp(fake.sent, text, len);
}

static inline int some_fd(void) { return eventfd(0, EFD_CLOEXEC); }

static inline int lowest_free_fd(void) {
  int fd = fcntl(0, F_DUPFD, 3);
  close(fd);
  return fd;
}

#endif
