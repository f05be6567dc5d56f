/* SPDX-License-Identifier: Apache-2.0 */
/* The PL031 against a core made of a few arrays: registers, the counter, the match interrupt, life cycle, threads.
 * Built with sanitizers and run by test_native.py. */
#include "fake_devices.h"

#include "pl031.h"
#include "vmmamba.h"

enum { ADDRESS = 0x09010000, GSI = 8 };

static struct pl031 *start(void) {
  int error = 1;
  core_begin();
  fake.rises = 0;
  struct pl031 *p = pl031_new(&fake_api, NULL, ADDRESS, GSI, &error);
  CHECK(p && error == 0 && fake.mapped == 1);
  CHECK(fake.space == VMM_MMIO && fake.base == ADDRESS && fake.len == VMM_AMBA_SIZE);
  pl031_pause(p, 0);
  return p;
}

static void stop(struct pl031 *p) {
  pl031_free(p);
  CHECK(!fake.mapped && !fake.level);
  core_end();
}

static time_t host_now(void) { /* time() may lag behind it */
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec;
}

/* Whether `seen` was the second since `first`, which the host's clock showed before, plus `offset`. */
static bool is_now(uint32_t seen, time_t first, uint32_t offset) {
  return seen - ((uint32_t)first + offset) <= (uint32_t)(host_now() - first);
}

static void after_reset(void) {
  time_t first = host_now();
  struct pl031 *p = start();
  CHECK(is_now(in32(RTCDR), first, 0));
  CHECK(in32(RTCMR) == 0 && in32(RTCLR) == 0 && in32(RTCIMSC) == 0 && in32(RTCRIS) == 0 && in32(RTCMIS) == 0);
  CHECK(in32(RTCCR) == 1); /* it runs */
  out32(RTCCR, 0);
  CHECK(in32(RTCCR) == 1);
  stop(p);
}

static void identification(void) {
  static const uint32_t id[] = {0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};
  struct pl031 *p = start();
  for (unsigned i = 0; i < 8; i++) CHECK(in32(0xfe0 + 4 * i) == id[i]);
  CHECK(in32(RTCICR) == 0 && in32(0x020) == 0);
  stop(p);
}

static void the_guest_sets_the_time(void) {
  struct pl031 *p = start();
  time_t first = host_now();
  out32(RTCLR, 1000);
  uint32_t offset = 1000 - (uint32_t)first;
  CHECK(in32(RTCLR) == 1000);
  CHECK(in32(RTCDR) - 1000 <= (uint32_t)(host_now() - first));
  CHECK(guest_read(RTCDR, 2) >= 1000 && is_now(in32(RTCDR), first, offset));
  stop(p);
}

static void match_interrupts(void) {
  struct pl031 *p = start();
  out32(RTCIMSC, 1);
  out32(RTCLR, 0xfffffffe); /* and the counter wraps on its way */
  out32(RTCMR, 0);
  CHECK(!fake.level);
  UNTIL(fake.level);
  CHECK(in32(RTCDR) - 0 < 10 && in32(RTCRIS) == 1 && in32(RTCMIS) == 1 && fake.gsi == GSI);
  out32(RTCICR, 1);
  CHECK(!fake.level && in32(RTCRIS) == 0 && fake.rises == 1);
  stop(p);
}

static void masked_match_is_raw(void) {
  struct pl031 *p = start();
  out32(RTCMR, in32(RTCDR) + 1);
  UNTIL(in32(RTCRIS) == 1);
  CHECK(!fake.level && in32(RTCMIS) == 0);
  out32(RTCIMSC, 0xff);
  CHECK(fake.level && in32(RTCIMSC) == 1);
  out32(RTCIMSC, 0);
  CHECK(!fake.level && in32(RTCRIS) == 1);
  stop(p);
}

static void set_to_the_match(void) {
  struct pl031 *p = start();
  out32(RTCIMSC, 1);
  out32(RTCMR, 5000);
  out32(RTCLR, 5000);
  CHECK(fake.level);
  stop(p); /* and the line goes down with it */
}

static void pause_holds_the_interrupt_back(void) {
  struct pl031 *p = start();
  out32(RTCIMSC, 1);
  out32(RTCMR, in32(RTCDR) + 1);
  pl031_pause(p, 1);
  uint32_t match = in32(RTCMR);
  UNTIL(in32(RTCDR) > match); /* time goes on */
  CHECK(!fake.level);
  pl031_pause(p, 0);
  CHECK(fake.level);
  stop(p);
}

static void save_and_restore(void) {
  struct pl031_state state;
  time_t first = host_now();
  struct pl031 *p = start();
  out32(RTCLR, 70000);
  out32(RTCMR, 70001);
  out32(RTCIMSC, 1);
  pl031_pause(p, 1);
  pl031_save(p, &state);
  stop(p);
  p = start();
  CHECK(pl031_restore(p, &state) == 0);
  CHECK(in32(RTCLR) == 70000 && in32(RTCMR) == 70001 && is_now(in32(RTCDR), first, 70000 - (uint32_t)first));
  UNTIL(fake.level);
  struct pl031_state bad[] = {state, state, state};
  bad[0].imsc = 2, bad[1].ris = 2, bad[2].match_at = -1;
  for (unsigned i = 0; i < 3; i++) CHECK(pl031_restore(p, &bad[i]) == -1);
  CHECK(fake.level);
  pl031_reset(p);
  CHECK(!fake.level && in32(RTCIMSC) == 0 && in32(RTCMR) == 0 && is_now(in32(RTCDR), first, 0));
  stop(p);
}

static void failures_leave_nothing_behind(void) {
  int before = lowest_free_fd();
  int error = 0;
  core_begin();
  fake.fail_bus = 1;
  CHECK(!pl031_new(&fake_api, NULL, ADDRESS, GSI, &error) && error == -EEXIST);
  fake.fail_bus = 0;
  core_end();
  CHECK(lowest_free_fd() == before);
  struct vmm_api other = fake_api;
  other.major++;
  CHECK(!pl031_new(&other, NULL, ADDRESS, GSI, &error) && error == -ENOTSUP);
}

static void *guest(void *seed) {
  unsigned dice = (unsigned)(uintptr_t)seed;
  for (int i = 0; i < 20000; i++) {
    unsigned noise = (unsigned)rand_r(&dice), reg = noise % 9 * 4;
    if (noise & 1 << 10) guest_write(reg, reg == RTCMR ? in32(RTCDR) : noise, 4);
    else guest_read(reg, 1u << (noise >> 11) % 4);
  }
  return NULL;
}

static void threads(void) {
  struct pl031 *p = start();
  pthread_t t[2];
  loops_run();
  pthread_create(&t[0], NULL, guest, (void *)1);
  pthread_create(&t[1], NULL, guest, (void *)2);
  for (int i = 0; i < 500; i++) {
    struct pl031_state state;
    pl031_pause(p, 1);
    pl031_save(p, &state);
    CHECK(pl031_restore(p, &state) == 0);
    pl031_pause(p, 0);
  }
  for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
  pl031_reset(p);
  pl031_free(p);
  loops_end();
  core_end();
}

int main(void) {
  devices_begin();
  after_reset();
  identification();
  the_guest_sets_the_time();
  match_interrupts();
  masked_match_is_raw();
  set_to_the_match();
  pause_holds_the_interrupt_back();
  save_and_restore();
  failures_leave_nothing_behind();
  threads();
  puts("ok");
  return 0;
}
