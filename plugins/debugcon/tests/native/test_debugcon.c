/* SPDX-License-Identifier: Apache-2.0 */
/* The debug ports against a core made of a few arrays. Built with sanitizers and run by test_native.py. */
#define _GNU_SOURCE
#include "debugcon.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmmcore.h"

#define CHECK(condition)                                                         \
  do {                                                                           \
    if (!(condition)) {                                                          \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
      exit(1);                                                                   \
    }                                                                            \
  } while (0)

/* --- the core -------------------------------------------------------------------- */

static struct {
  pthread_mutex_t lock;
  struct {
    uint64_t base, len;
    vmm_io_fn fn;
    void *opaque;
  } port[3];
  unsigned mapped, open_chardevs;
  uint64_t refused_port, clock;
  size_t room, sent_len;
  uint8_t sent[4096];
  unsigned events[16], event_total;
  uint64_t last_arg[16];
  bool fail_chardev;
} core = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int bus_add(vmm_vm *vm, int space, uint64_t base, uint64_t len, vmm_io_fn fn, void *opaque) {
  (void)vm;
  CHECK(space == VMM_PIO && core.mapped < 3);
  if (base == core.refused_port) return -EEXIST;
  core.port[core.mapped].base = base, core.port[core.mapped].len = len;
  core.port[core.mapped].fn = fn, core.port[core.mapped].opaque = opaque;
  core.mapped++;
  return 0;
}
static int bus_del(vmm_vm *vm, int space, uint64_t base) {
  (void)vm;
  for (unsigned i = 0; i < core.mapped; i++)
    if (core.port[i].base == base) {
      core.port[i] = core.port[--core.mapped];
      return 0;
    }
  CHECK(space < 0); /* not mapped */
  return -ENOENT;
}
static vmm_chardev *chardev_open(vmm_vm *vm, int in_fd, int out_fd, uint32_t flags, vmm_rx_fn rx, void *opaque) {
  (void)vm, (void)flags, (void)opaque;
  CHECK(in_fd == -1 && out_fd >= 0 && rx);
  close(out_fd);
  if (core.fail_chardev) return NULL;
  core.open_chardevs++;
  return (vmm_chardev *)&core;
}
static size_t chardev_write(vmm_chardev *dev, const uint8_t *data, size_t len) {
  (void)dev;
  if (len > core.room) len = core.room;
  memcpy(core.sent + core.sent_len, data, len);
  core.sent_len += len;
  core.room -= len;
  return len;
}
static void chardev_close(vmm_chardev *dev) {
  (void)dev;
  core.open_chardevs--;
}
static void post_event(vmm_vm *vm, uint32_t kind, uint64_t arg) {
  (void)vm;
  pthread_mutex_lock(&core.lock);
  core.events[kind]++, core.event_total++;
  core.last_arg[kind] = arg;
  pthread_mutex_unlock(&core.lock);
}
static uint64_t now_ns(void) { return __atomic_add_fetch(&core.clock, 1, __ATOMIC_SEQ_CST); }

static const struct vmm_api api = {
    .magic = VMM_API_MAGIC, .major = VMM_API_MAJOR, .minor = VMM_API_MINOR, .size = sizeof api,
    .bus_add = bus_add, .bus_del = bus_del, .chardev_open = chardev_open, .chardev_write = chardev_write,
    .chardev_close = chardev_close, .post_event = post_event, .now_ns = now_ns,
};

/* --- the guest ------------------------------------------------------------------- */

static uint64_t access_port(uint64_t port, uint64_t value, uint32_t size, int is_write) {
  for (unsigned i = 0; i < core.mapped; i++)
    if (port >= core.port[i].base && port + size <= core.port[i].base + core.port[i].len) {
      uint8_t data[8];
      memcpy(data, &value, 8);
      core.port[i].fn(core.port[i].opaque, port - core.port[i].base, data, size, is_write);
      return vmm_load(data, size);
    }
  return size == 1 ? 0xff : UINT32_MAX;
}
static void out(uint64_t port, uint8_t value) { access_port(port, value, 1, 1); }

static const struct debugcon_ports all = {.console = 0xe9, .stamp = 0x80, .exit = 0xf4};

static struct debugcon *start(const struct debugcon_ports *ports, size_t room) {
  int error = 1, out_fd = eventfd(0, EFD_CLOEXEC);
  core.room = room;
  core.sent_len = core.event_total = 0;
  memset(core.events, 0, sizeof core.events);
  struct debugcon *d = debugcon_new(&api, NULL, ports, out_fd, 0, &error);
  CHECK(d && error == 0);
  return d;
}
static void stop(struct debugcon *d) {
  debugcon_free(d);
  CHECK(!core.mapped && !core.open_chardevs);
}

/* --- cases ------------------------------------------------------------------------ */

static void console(void) {
  struct debugcon *d = start(&all, 5);
  for (const char *p = "hello world"; *p; p++) out(0xe9, (uint8_t)*p);
  CHECK(core.sent_len == 5 && !memcmp(core.sent, "hello", 5));
  CHECK(access_port(0xe9, 0xff, 1, 0) == 0xe9);
  struct debugcon_counters c;
  debugcon_read_counters(d, &c);
  CHECK(c.tx_bytes == 5 && c.tx_dropped == 6 && c.stamps == 0 && core.event_total == 0);
  stop(d);
}

static void ports_left_out_are_not_mapped(void) {
  struct debugcon_ports ports = {.console = 0x402};
  struct debugcon *d = start(&ports, 10);
  out(0x402, 'x');
  out(0x80, 1);
  access_port(0xf4, 1, 4, 1);
  CHECK(core.mapped == 1 && core.sent_len == 1 && core.event_total == 0);
  stop(d);
}

static void stamps_are_first_writes_in_order(void) {
  struct debugcon *d = start(&all, 0);
  struct debugcon_stamp stamps[DEBUGCON_STAMPS];
  CHECK(debugcon_stamps(d, stamps) == 0);
  const uint8_t written[] = {0x40, 0x02, 0x40, 0x00, 0x02, 0xff};
  for (unsigned i = 0; i < sizeof written; i++) out(0x80, written[i]);
  CHECK(access_port(0x80, 0xff, 1, 0) == 0xff); /* write only */
  CHECK(debugcon_stamps(d, stamps) == 4);
  CHECK(stamps[0].value == 0x40 && stamps[1].value == 0x02 && stamps[2].value == 0 && stamps[3].value == 0xff);
  for (unsigned i = 1; i < 4; i++) CHECK(stamps[i - 1].time_ns < stamps[i].time_ns);
  CHECK(core.events[VMM_EVENT_STAMP] == 4 && core.last_arg[VMM_EVENT_STAMP] == 0xff);
  debugcon_reset(d);
  CHECK(debugcon_stamps(d, stamps) == 0);
  out(0x80, 0x40);
  CHECK(debugcon_stamps(d, stamps) == 1 && core.events[VMM_EVENT_STAMP] == 5);
  stop(d);
}

static void exit_port_speaks_once(void) {
  struct debugcon *d = start(&all, 0);
  CHECK(access_port(0xf4, UINT64_MAX, 4, 0) == UINT32_MAX && core.event_total == 0); /* reading is no exit */
  access_port(0xf4, 0x12345678, 4, 1);
  access_port(0xf4, 3, 1, 1);
  CHECK(core.events[VMM_EVENT_EXIT] == 1 && core.last_arg[VMM_EVENT_EXIT] == 0x12345678);
  debugcon_reset(d);
  access_port(0xf4, 3, 1, 1);
  CHECK(core.events[VMM_EVENT_EXIT] == 2 && core.last_arg[VMM_EVENT_EXIT] == 3);
  stop(d);
}

static void *hammer(void *unused) {
  for (unsigned i = 0; i < 50000; i++) {
    out(0x80, (uint8_t)(i * 7));
    access_port(0xf4, i, 4, 1);
  }
  return unused;
}

/* However much a guest writes, the control plane hears a bounded number of events. */
static void events_are_bounded(void) {
  struct debugcon *d = start(&all, 0);
  struct debugcon_stamp stamps[DEBUGCON_STAMPS];
  pthread_t t[2];
  for (int i = 0; i < 2; i++) pthread_create(&t[i], NULL, hammer, NULL);
  for (int i = 0; i < 100; i++) debugcon_stamps(d, stamps);
  for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
  CHECK(core.events[VMM_EVENT_STAMP] == 256 && core.events[VMM_EVENT_EXIT] == 1 && core.event_total == 257);
  CHECK(debugcon_stamps(d, stamps) == 256);
  stop(d);
}

static int lowest_free_fd(void) {
  int fd = fcntl(0, F_DUPFD, 3);
  close(fd);
  return fd;
}

static void failures_leave_nothing_behind(void) {
  int error = 0, before = lowest_free_fd();
  const uint64_t refused[] = {0xe9, 0x80, 0xf4};
  for (unsigned i = 0; i < 3; i++) {
    core.refused_port = refused[i];
    CHECK(!debugcon_new(&api, NULL, &all, eventfd(0, EFD_CLOEXEC), 0, &error) && error == -EEXIST);
    CHECK(!core.mapped && !core.open_chardevs);
  }
  core.refused_port = 0;
  core.fail_chardev = true;
  CHECK(!debugcon_new(&api, NULL, &all, eventfd(0, EFD_CLOEXEC), 0, &error) && error == -EIO && !core.mapped);
  core.fail_chardev = false;
  CHECK(lowest_free_fd() == before); /* the fds are closed */
  struct vmm_api other = api;
  other.magic++;
  CHECK(!debugcon_new(&other, NULL, &all, -1, 0, &error) && error == -ENOTSUP);
}

int main(void) {
  console();
  ports_left_out_are_not_mapped();
  stamps_are_first_writes_in_order();
  exit_port_speaks_once();
  events_are_bounded();
  failures_leave_nothing_behind();
  puts("ok");
  return 0;
}
