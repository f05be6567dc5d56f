/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "pl031.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "vmmamba.h"

enum { PART = 0x031, REVISION = 0 };

struct pl031 {
  struct vmm_amba cell;
  struct pl031_state s; /* guarded by the cell's lock */
};

static int64_t host_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec;
}

/* --- with the lock held ------------------------------------------------------ */

static void update_line(struct pl031 *p) {
  vmm_amba_line(&p->cell, p->s.ris & p->s.imsc);
}

/* Raise the match if it is time, else wait for it. An absolute timer also heeds that the host's clock is set. */
static void check_match(struct pl031 *p) {
  struct itimerspec when = {0};
  if (p->s.match_at && !p->cell.paused) {
    if (host_now() >= p->s.match_at) {
      p->s.match_at = 0;
      p->s.ris = 1;
    } else {
      when.it_value.tv_sec = p->s.match_at;
    }
  }
  timerfd_settime(p->cell.timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
  update_line(p);
}

/* RTCMR or the counter have changed. */
static void find_match(struct pl031 *p) {
  int64_t now = host_now();
  p->s.match_at = now + (uint32_t)(p->s.mr - p->s.offset - (uint32_t)now);
  check_match(p);
}

static uint32_t read_register(void *opaque, uint32_t reg) {
  const struct pl031 *p = opaque;
  switch (reg) {
    case RTCDR: return (uint32_t)host_now() + p->s.offset;
    case RTCMR: return p->s.mr;
    case RTCLR: return p->s.lr;
    case RTCCR: return 1;
    case RTCIMSC: return p->s.imsc;
    case RTCRIS: return p->s.ris;
    case RTCMIS: return p->s.ris & p->s.imsc;
    default: return vmm_amba_id(reg, PART, REVISION);
  }
}

static void write_register(void *opaque, uint32_t reg, uint32_t value) {
  struct pl031 *p = opaque;
  switch (reg) {
    case RTCMR:
      p->s.mr = value;
      find_match(p);
      break;
    case RTCLR:
      p->s.lr = value;
      p->s.offset = value - (uint32_t)host_now();
      find_match(p);
      break;
    case RTCIMSC: p->s.imsc = value & 1; break;
    case RTCICR: p->s.ris &= ~value; break;
    default: break; /* read only, not there, or RTCCR: what runs cannot be stopped */
  }
  update_line(p);
}

static void tick(void *opaque) {
  check_match(opaque);
}

/* --- life cycle ------------------------------------------------------------------ */

struct pl031 *pl031_new(const void *api, void *vm, uint64_t address, uint32_t gsi, int *error) {
  struct pl031 *p = NULL;
  *error = vmm_api_check(api, 0) ? -ENOTSUP : -ENOMEM;
  if (*error == -ENOMEM) p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->cell = (struct vmm_amba){.api = api, .vm = vm, .address = address, .gsi = gsi,
                              .read = read_register, .write = write_register, .tick = tick, .chip = p};
  *error = vmm_amba_open(&p->cell, CLOCK_REALTIME);
  if (*error >= 0) {
    pl031_reset(p);
    return p;
  }
  pl031_free(p);
  return NULL;
}

void pl031_free(struct pl031 *p) {
  if (p) vmm_amba_close(&p->cell);
  free(p);
}

void pl031_reset(struct pl031 *p) {
  pthread_mutex_lock(&p->cell.lock);
  p->s = (struct pl031_state){0};
  find_match(p);
  pthread_mutex_unlock(&p->cell.lock);
}

void pl031_pause(struct pl031 *p, int paused) {
  pthread_mutex_lock(&p->cell.lock);
  p->cell.paused = paused;
  check_match(p);
  pthread_mutex_unlock(&p->cell.lock);
}

void pl031_save(struct pl031 *p, struct pl031_state *state) {
  pthread_mutex_lock(&p->cell.lock);
  *state = p->s;
  pthread_mutex_unlock(&p->cell.lock);
}

int pl031_restore(struct pl031 *p, const struct pl031_state *state) {
  if (state->imsc > 1 || state->ris > 1 || state->match_at < 0) return -1;
  pthread_mutex_lock(&p->cell.lock);
  p->s = *state;
  check_match(p);
  pthread_mutex_unlock(&p->cell.lock);
  return 0;
}
