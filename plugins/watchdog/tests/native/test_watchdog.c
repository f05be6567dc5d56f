/* SPDX-License-Identifier: Apache-2.0 */
/* The watchdogs against a core made of arrays. Built with sanitizers and run by test_watchdog_native.py. */
#define _GNU_SOURCE
#include "watchdog.h"

#include "fake_core.h"

static unsigned events[16], logged;
static uint8_t config[256];

static void post(vmm_vm *vm, uint32_t kind, uint64_t arg) {
  (void)vm;
  CHECK(kind < 16 && (kind != VMM_EVENT_DEVICE || arg == 77));
  __atomic_add_fetch(&events[kind], 1, __ATOMIC_SEQ_CST);
}

static void say(vmm_vm *vm, int level, const char *text, ...) {
  (void)vm, (void)level;
  CHECK(!strchr(text, '\n'));
  __atomic_add_fetch(&logged, 1, __ATOMIC_SEQ_CST);
}

static uint32_t config_read(vmm_pci_dev *dev, uint32_t offset, uint32_t size) {
  CHECK(dev == (void *)config && offset + size <= sizeof config);
  return (uint32_t)vmm_load(&config[offset], size);
}

static struct watchdog *begin(void) {
  core_begin();
  memset(events, 0, sizeof events);
  memset(config, 0, sizeof config);
  logged = 0;
  fake_api.post_event = post;
  fake_api.log = say;
  fake_api.pci_config = config_read;
  int error = 1;
  struct watchdog *w = watchdog_new(&fake_api, NULL, "watchdog0", 77, &error);
  CHECK(w && !error);
  return w;
}

static void end(struct watchdog *w) {
  watchdog_free(w);
  core_end();
}

static unsigned resets(void) { return __atomic_load_n(&events[VMM_EVENT_RESET], __ATOMIC_SEQ_CST); }

static uint8_t ping(vmm_queue *q) {
  uint8_t answer[2] = {0, 0};
  unsigned n = seen(q);
  struct fake_request *r = submit_in(q, answer, 2);
  UNTIL(seen(q) == n + 1);
  CHECK(r->written == 1 && answer[1] == 0);
  return answer[0];
}

static void first_ping_starts_it(void) {
  struct watchdog *w = begin();
  vmm_queue *q = queue_begin(0);
  CHECK(!watchdog_serve(w, q, 20000000));
  turn(60);
  CHECK(!resets());
  for (int i = 0; i < 30; i++) CHECK(ping(q) == 1);
  CHECK(!watchdog_expired(w));
  UNTIL(resets() == 1);
  CHECK(watchdog_expired(w) && !watchdog_expired(w) && events[VMM_EVENT_DEVICE] == 1 && logged == 1);
  CHECK(counted("pings") == 30 && counted("resets") == 1);
  turn(60); /* once */
  CHECK(resets() == 1);
  queue_unhandle(q);
  queue_end(q);
  end(w);
}

static void pause_stops_the_time(void) {
  struct watchdog *w = begin();
  vmm_queue *q = queue_begin(0);
  CHECK(!watchdog_serve(w, q, 20000000));
  ping(q);
  watchdog_pause(w);
  turn(60);
  CHECK(!resets());
  watchdog_resume(w);
  UNTIL(resets() == 1);
  ping(q);
  watchdog_off(w); /* the driver has let go of it */
  turn(60);
  CHECK(resets() == 1);
  uint8_t byte = 9;
  submit_out(q, &byte, 1); /* nothing to write into */
  submit(q, NULL, 0, 0);
  UNTIL(seen(q) == 4);
  queue_unhandle(q);
  queue_end(q);
  end(w);
}

static void esb_write(struct watchdog *w, uint64_t offset, uint32_t value) {
  uint8_t data[4];
  vmm_store(data, 4, value);
  watchdog_esb_io(w, offset, data, offset == 12 ? 2 : 4, 1);
}

static void esb_unlocked(struct watchdog *w, uint64_t offset, uint32_t value) {
  esb_write(w, 12, 0x80);
  esb_write(w, 12, 0x86);
  esb_write(w, offset, value);
}

static void esb_lock(struct watchdog *w, uint8_t value) {
  config[0x68] = value;
  watchdog_esb_config(w, 0x68, 1, 1);
}

/* As Linux' driver does it; a tick is 2^15 cycles of 33 MHz, about a ms. */
static void esb_counts_two_stages(void) {
  struct watchdog *w = begin();
  watchdog_esb(w, config);
  esb_lock(w, 0);
  esb_write(w, 0, 1); /* not unlocked */
  esb_unlocked(w, 0, 30);
  esb_unlocked(w, 4, 30);
  esb_unlocked(w, 12, 0x100);
  turn(120);
  CHECK(!resets()); /* not enabled */
  esb_lock(w, 2);
  uint64_t start = fake_now();
  for (int i = 0; i < 10; i++) {
    turn(10);
    esb_unlocked(w, 12, 0x100);
  }
  UNTIL(resets() == 1);
  CHECK(fake_now() - start >= 60 * 32768 / 33 * 1000ull);
  CHECK(counted("pings") == 11);

  esb_lock(w, 0);
  esb_lock(w, 2);
  esb_lock(w, 0); /* off */
  turn(120);
  CHECK(resets() == 1);
  esb_lock(w, 3); /* locked: not to be turned off any more */
  esb_lock(w, 0);
  UNTIL(resets() == 2);
  uint8_t data[8];
  for (uint64_t offset = 0; offset < 16; offset++)
    for (uint32_t size = 1; size <= 8; size *= 2) watchdog_esb_io(w, offset, data, size, 0);
  watchdog_esb_config(w, 0x60, 4, 1);
  watchdog_esb_config(w, 0x66, 4, 1); /* over it */
  watchdog_esb_config(w, 0x68, 1, 0);
  end(w);
}

static void many_threads(void) {
  struct watchdog *w = begin();
  watchdog_esb(w, config);
  loops_run();
  esb_lock(w, 2);
  for (int i = 0; i < 2000; i++) {
    esb_unlocked(w, (uint64_t)(i % 2) * 4, (uint32_t)i % 3);
    esb_unlocked(w, 12, 0x100);
    if (i % 7 == 0) watchdog_pause(w);
    if (i % 7 == 3) watchdog_resume(w);
  }
  loops_end();
  end(w);
}

static void older_core_is_refused(void) {
  struct vmm_api older = fake_api;
  int error = 0;
  older.minor = 3;
  CHECK(!watchdog_new(&older, NULL, "watchdog0", 1, &error) && error == -ENOTSUP);
}

int main(void) {
  first_ping_starts_it();
  pause_stops_the_time();
  esb_counts_two_stages();
  many_threads();
  older_core_is_refused();
  puts("ok");
}
