/* SPDX-License-Identifier: Apache-2.0 */
/* The PL061 against a core made of a few arrays: registers, interrupts, the power button, life cycle, threads.
 * Built with sanitizers and run by test_native.py. */
#include "fake_devices.h"

#include "pl061.h"
#include "vmmamba.h"

enum { ADDRESS = 0x09020000, GSI = 9, BUTTON = PL061_POWER, ALL = GPIODATA + (0xff << 2),
       ONLY_BUTTON = GPIODATA + (BUTTON << 2) };

static struct pl061 *start(void) {
  int error = 1;
  core_begin();
  fake.rises = 0;
  struct pl061 *p = pl061_new(&fake_api, NULL, ADDRESS, GSI, &error);
  CHECK(p && error == 0 && fake.mapped == 1);
  CHECK(fake.space == VMM_MMIO && fake.base == ADDRESS && fake.len == VMM_AMBA_SIZE);
  pl061_pause(p, 0);
  return p;
}

static void stop(struct pl061 *p) {
  pl061_free(p);
  CHECK(!fake.mapped && !fake.level);
  core_end();
}

static void after_reset(void) {
  struct pl061 *p = start();
  for (unsigned reg = GPIODIR; reg <= GPIOAFSEL; reg += 4) CHECK(in32(reg) == 0);
  CHECK(in32(ALL) == 0);
  stop(p);
}

static void identification(void) {
  static const uint32_t id[] = {0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};
  struct pl061 *p = start();
  for (unsigned i = 0; i < 8; i++) CHECK(in32(0xfe0 + 4 * i) == id[i]);
  CHECK(in32(0x424) == 0);
  stop(p);
}

static void registers_have_eight_bits(void) {
  static const unsigned kept[] = {GPIODIR, GPIOIS, GPIOIBE, GPIOIEV, GPIOIE, GPIOAFSEL};
  struct pl061 *p = start();
  for (unsigned i = 0; i < sizeof kept / sizeof *kept; i++) {
    out32(kept[i], 0xffffffff);
    CHECK(in32(kept[i]) == 0xff && guest_read(kept[i], 1) == 0xff);
    guest_write(kept[i], 0x5a, 1);
    CHECK(in32(kept[i]) == 0x5a);
    guest_write(kept[i], 0, 2);
    CHECK(in32(kept[i]) == 0);
  }
  stop(p);
}

/* Bits 9:2 of the address are a mask. */
static void data_is_masked_by_its_address(void) {
  struct pl061 *p = start();
  out32(GPIODIR, 0xf0);
  out32(ALL, 0xff);
  CHECK(in32(ALL) == 0xf0); /* inputs read as what comes in */
  out32(GPIODATA + (0x50 << 2), 0x0f);
  CHECK(in32(ALL) == 0xa0 && in32(GPIODATA + (0x20 << 2)) == 0x20 && in32(GPIODATA + (0x10 << 2)) == 0);
  out32(GPIODATA, 0xff);
  CHECK(in32(ALL) == 0xa0 && in32(GPIODATA) == 0);
  guest_write(GPIODATA + (0x40 << 2), 0x40, 1); /* as Linux does */
  CHECK(guest_read(GPIODATA + (0x40 << 2), 1) == 0x40);
  out32(GPIODIR, 0xff);
  CHECK(in32(ALL) == 0xef); /* an output has what was written before */
  stop(p);
}

static void a_press_is_seen_and_ends(void) {
  struct pl061 *p = start();
  out32(GPIOIBE, BUTTON); /* as gpio-keys asks for */
  out32(GPIOIE, BUTTON);
  CHECK(in32(ONLY_BUTTON) == 0 && !fake.level);
  pl061_press(p);
  CHECK(fake.level && fake.gsi == GSI && in32(GPIORIS) == BUTTON && in32(GPIOMIS) == BUTTON);
  out32(GPIOIC, BUTTON);
  CHECK(!fake.level && in32(GPIORIS) == 0 && in32(ONLY_BUTTON) == BUTTON && in32(ALL) == BUTTON);
  pl061_press(p); /* it is down already */
  CHECK(!fake.level);
  UNTIL(fake.level);
  CHECK(in32(ONLY_BUTTON) == 0 && fake.rises == 2);
  out32(GPIOIC, 0xff);
  pl061_press(p); /* and again */
  CHECK(fake.level && in32(ONLY_BUTTON) == BUTTON);
  stop(p);
}

static void a_press_that_nobody_reads_ends_too(void) {
  struct pl061 *p = start();
  out32(GPIOIE, BUTTON); /* falling edge */
  pl061_press(p);
  CHECK(!fake.level);
  UNTIL(fake.level);
  CHECK(in32(ALL) == 0);
  stop(p);
}

static void edges_and_levels(void) {
  struct pl061 *p = start();
  out32(GPIOIEV, BUTTON);
  pl061_press(p); /* before anybody listens */
  CHECK(!fake.level && in32(GPIORIS) == BUTTON && in32(GPIOMIS) == 0);
  out32(GPIOIE, BUTTON);
  CHECK(fake.level);
  out32(GPIOIC, BUTTON);
  CHECK(!fake.level);
  out32(GPIOIS, BUTTON); /* high level */
  CHECK(fake.level);
  out32(GPIOIC, BUTTON); /* which cannot be cleared */
  CHECK(fake.level);
  out32(GPIOIEV, 0); /* low level */
  CHECK(!fake.level && in32(GPIORIS) == 0);
  CHECK(in32(ALL) == BUTTON);
  UNTIL(fake.level);
  CHECK(in32(ALL) == 0);
  out32(GPIODIR, BUTTON); /* an output interrupts nobody */
  CHECK(!fake.level);
  out32(GPIODIR, 0);
  out32(GPIOIS, 0);
  CHECK(!fake.level && in32(GPIORIS) == 0); /* no edge is left of the time when levels counted */
  stop(p);
}

static void pause_keeps_it_down(void) {
  struct pl061 *p = start();
  pl061_press(p);
  pl061_pause(p, 1);
  CHECK(in32(ALL) == BUTTON);
  for (int i = 0; i < 30; i++) turn(5);
  CHECK(in32(ALL) == BUTTON);
  pl061_pause(p, 0);
  UNTIL(in32(ALL) == 0);
  stop(p);
}

static void save_and_restore(void) {
  struct pl061_state state, same;
  struct pl061 *p = start();
  out32(GPIODIR, 0xf0);
  out32(ALL, 0x90);
  out32(GPIOIBE, BUTTON);
  out32(GPIOIE, BUTTON);
  pl061_press(p);
  pl061_pause(p, 1);
  pl061_save(p, &state);
  stop(p);
  p = start();
  CHECK(!fake.level && pl061_restore(p, &state) == 0 && fake.level);
  pl061_save(p, &same);
  CHECK(!memcmp(&state, &same, sizeof state));
  CHECK(in32(ALL) == (0x90 | BUTTON));
  UNTIL(in32(ALL) == 0x90); /* somebody lets go of it here, too */
  state.in = 0xff;
  CHECK(pl061_restore(p, &state) == -1 && in32(ALL) == 0x90);
  pl061_reset(p);
  CHECK(!fake.level && in32(ALL) == 0 && in32(GPIODIR) == 0 && in32(GPIOIE) == 0);
  stop(p);
}

static void failures_leave_nothing_behind(void) {
  int before = lowest_free_fd();
  int error = 0;
  core_begin();
  fake.fail_bus = 1;
  CHECK(!pl061_new(&fake_api, NULL, ADDRESS, GSI, &error) && error == -EEXIST);
  fake.fail_bus = 0;
  core_end();
  CHECK(lowest_free_fd() == before);
  struct vmm_api other = fake_api;
  other.major++;
  CHECK(!pl061_new(&other, NULL, ADDRESS, GSI, &error) && error == -ENOTSUP);
}

static void *guest(void *seed) {
  unsigned dice = (unsigned)(uintptr_t)seed;
  for (int i = 0; i < 20000; i++) {
    unsigned noise = (unsigned)rand_r(&dice), reg = noise & 1 << 8 ? noise % 256 * 4 : GPIODIR + noise % 9 * 4;
    if (noise & 1 << 10) guest_write(reg, noise >> 16, 4);
    else guest_read(reg, 1u << (noise >> 11) % 4);
  }
  return NULL;
}

static void threads(void) {
  struct pl061 *p = start();
  pthread_t t[2];
  loops_run();
  pthread_create(&t[0], NULL, guest, (void *)1);
  pthread_create(&t[1], NULL, guest, (void *)2);
  for (int i = 0; i < 500; i++) {
    struct pl061_state state;
    pl061_press(p);
    pl061_pause(p, 1);
    pl061_save(p, &state);
    CHECK(pl061_restore(p, &state) == 0);
    pl061_pause(p, 0);
  }
  for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
  pl061_reset(p);
  pl061_free(p);
  loops_end();
  core_end();
}

int main(void) {
  devices_begin();
  after_reset();
  identification();
  registers_have_eight_bits();
  data_is_masked_by_its_address();
  a_press_is_seen_and_ends();
  a_press_that_nobody_reads_ends_too();
  edges_and_levels();
  pause_keeps_it_down();
  save_and_restore();
  failures_leave_nothing_behind();
  threads();
  puts("ok");
  return 0;
}
