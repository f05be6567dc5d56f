/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "pl061.h"

#include <errno.h>
#include <stdlib.h>

#include "vmmamba.h"

enum { PART = 0x061, REVISION = 0 };
enum { TICK_NS = 100000000, TICKS_MAX = 10 };

struct pl061 {
  struct vmm_amba cell;
  /* guarded by the cell's lock */
  struct pl061_state s;
  bool seen;      /* the guest has read the button while it is down */
  unsigned ticks; /* since it is down */
};

/* --- with the lock held ------------------------------------------------------ */

/* Levels count as they are, edges until they are cleared (manual 3.3.3 to 3.3.7). */
static uint8_t raw(const struct pl061 *p) {
  uint8_t active = (uint8_t)~(p->s.in ^ p->s.iev) & (uint8_t)~p->s.dir;
  return (uint8_t)((active & p->s.is) | (p->s.edges & ~p->s.is));
}

static void update_line(struct pl061 *p) {
  vmm_amba_line(&p->cell, raw(p) & p->s.ie);
}

static void set_in(struct pl061 *p, uint8_t in) {
  uint8_t changed = (uint8_t)((p->s.in ^ in) & ~p->s.dir);
  p->s.in = in;
  p->s.edges |= changed & (uint8_t)(p->s.ibe | ~(in ^ p->s.iev)) & (uint8_t)~p->s.is;
  update_line(p);
}

/* The timer runs while the button is down. */
static void run_timer(struct pl061 *p) {
  bool run = p->s.in & PL061_POWER && !p->cell.paused;
  struct timespec tick = {0, run ? TICK_NS : 0};
  timerfd_settime(p->cell.timer_fd, 0, &(struct itimerspec){.it_interval = tick, .it_value = tick}, NULL);
}

static uint32_t read_register(void *opaque, uint32_t reg) {
  struct pl061 *p = opaque;
  if (reg < GPIODIR) {
    if (reg >> 2 & PL061_POWER) p->seen = true;
    return ((p->s.in & (uint32_t)~p->s.dir) | (p->s.out & p->s.dir)) & reg >> 2;
  }
  switch (reg) {
    case GPIODIR: return p->s.dir;
    case GPIOIS: return p->s.is;
    case GPIOIBE: return p->s.ibe;
    case GPIOIEV: return p->s.iev;
    case GPIOIE: return p->s.ie;
    case GPIORIS: return raw(p);
    case GPIOMIS: return raw(p) & p->s.ie;
    case GPIOAFSEL: return p->s.afsel;
    default: return vmm_amba_id(reg, PART, REVISION);
  }
}

static void write_register(void *opaque, uint32_t reg, uint32_t value) {
  struct pl061 *p = opaque;
  uint8_t v = (uint8_t)value;
  if (reg < GPIODIR) {
    p->s.out = (uint8_t)((p->s.out & ~(reg >> 2)) | (v & reg >> 2));
    return;
  }
  switch (reg) {
    case GPIODIR: p->s.dir = v; break;
    case GPIOIS: p->s.is = v; break;
    case GPIOIBE: p->s.ibe = v; break;
    case GPIOIEV: p->s.iev = v; break;
    case GPIOIE: p->s.ie = v; break;
    case GPIOIC: p->s.edges &= (uint8_t)~v; break;
    case GPIOAFSEL: p->s.afsel = v; break;
    default: break; /* read only, or not there */
  }
  update_line(p);
}

/* Drivers wait for the line to settle, some milliseconds, and then read it: so must the button. */
static void tick(void *opaque) {
  struct pl061 *p = opaque;
  if (p->cell.paused || (++p->ticks < TICKS_MAX && !p->seen)) return;
  set_in(p, p->s.in & (uint8_t)~PL061_POWER);
  run_timer(p);
}

/* --- life cycle ------------------------------------------------------------------ */

struct pl061 *pl061_new(const void *api, void *vm, uint64_t address, uint32_t gsi, int *error) {
  struct pl061 *p = NULL;
  *error = vmm_api_check(api, 0) ? -ENOTSUP : -ENOMEM;
  if (*error == -ENOMEM) p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->cell = (struct vmm_amba){.api = api, .vm = vm, .address = address, .gsi = gsi,
                              .read = read_register, .write = write_register, .tick = tick, .chip = p};
  *error = vmm_amba_open(&p->cell, CLOCK_MONOTONIC);
  if (*error >= 0) return p;
  pl061_free(p);
  return NULL;
}

void pl061_free(struct pl061 *p) {
  if (p) vmm_amba_close(&p->cell);
  free(p);
}

void pl061_press(struct pl061 *p) {
  pthread_mutex_lock(&p->cell.lock);
  if (!(p->s.in & PL061_POWER)) {
    p->seen = false;
    p->ticks = 0;
    set_in(p, p->s.in | PL061_POWER);
    run_timer(p);
  }
  pthread_mutex_unlock(&p->cell.lock);
}

/* The registers; a button that is down stays down. */
void pl061_reset(struct pl061 *p) {
  pthread_mutex_lock(&p->cell.lock);
  p->s = (struct pl061_state){.in = p->s.in};
  update_line(p);
  pthread_mutex_unlock(&p->cell.lock);
}

void pl061_pause(struct pl061 *p, int paused) {
  pthread_mutex_lock(&p->cell.lock);
  p->cell.paused = paused;
  run_timer(p);
  pthread_mutex_unlock(&p->cell.lock);
}

void pl061_save(struct pl061 *p, struct pl061_state *state) {
  pthread_mutex_lock(&p->cell.lock);
  *state = p->s;
  pthread_mutex_unlock(&p->cell.lock);
}

int pl061_restore(struct pl061 *p, const struct pl061_state *state) {
  if (state->in & ~PL061_POWER) return -1;
  pthread_mutex_lock(&p->cell.lock);
  p->s = *state;
  p->seen = false;
  p->ticks = 0;
  run_timer(p);
  update_line(p);
  pthread_mutex_unlock(&p->cell.lock);
  return 0;
}
