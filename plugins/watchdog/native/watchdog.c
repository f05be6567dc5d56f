/* SPDX-License-Identifier: Apache-2.0 */
/* The timer, and the virtio front end: the driver pings by a request of one writable byte, which is answered with 1. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

static void set(struct watchdog *w, uint64_t ns) {
  struct itimerspec t = {.it_value = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)}};
  timerfd_settime(w->timer_fd, 0, &t, NULL);
}

void watchdog_set(struct watchdog *w, uint64_t ns) {
  pthread_mutex_lock(&w->lock);
  w->ns = ns;
  if (!w->paused) set(w, ns);
  pthread_mutex_unlock(&w->lock);
}

void watchdog_off(struct watchdog *w) {
  watchdog_set(w, 0);
}

void watchdog_pause(struct watchdog *w) {
  pthread_mutex_lock(&w->lock);
  w->paused = true;
  set(w, 0);
  pthread_mutex_unlock(&w->lock);
}

void watchdog_resume(struct watchdog *w) {
  pthread_mutex_lock(&w->lock);
  w->paused = false;
  set(w, w->ns);
  pthread_mutex_unlock(&w->lock);
}

int watchdog_expired(struct watchdog *w) {
  return __atomic_exchange_n(&w->over, 0, __ATOMIC_ACQ_REL);
}

static void on_timer(void *opaque, int fd, uint32_t events) {
  struct watchdog *w = opaque;
  uint64_t ticks;
  (void)events;
  pthread_mutex_lock(&w->lock);
  bool over = read(fd, &ticks, sizeof ticks) == sizeof ticks && w->ns && !w->paused; /* else it was set back just now */
  if (over) w->ns = 0;
  pthread_mutex_unlock(&w->lock);
  if (!over) return;
  if (w->resets) __atomic_add_fetch(w->resets, 1, __ATOMIC_RELAXED);
  __atomic_store_n(&w->over, 1, __ATOMIC_RELEASE);
  w->api->log(w->vm, 4, "the guest has not set its watchdog back in time: reset");
  w->api->post_event(w->vm, VMM_EVENT_DEVICE, w->token);
  w->api->post_event(w->vm, VMM_EVENT_RESET, 0);
}

struct watchdog *watchdog_new(const void *api, void *vm, const char *id, uint64_t token, int *error) {
  *error = vmm_api_check(api, 4) ? -ENOTSUP : 0;
  struct watchdog *w = *error ? NULL : calloc(1, sizeof *w);
  if (!w) return *error = *error ? *error : -ENOMEM, NULL;
  w->api = api;
  w->vm = vm;
  w->token = token;
  pthread_mutex_init(&w->lock, NULL);
  pthread_mutex_init(&w->esb_lock, NULL);
  w->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (w->timer_fd < 0) {
    *error = -errno;
  } else {
    w->loop = w->api->loop(vm, 0);
    *error = w->loop ? w->api->loop_add(w->loop, w->timer_fd, EPOLLIN, on_timer, w) : -ENOMEM;
  }
  if (*error) {
    w->loop = NULL;
    watchdog_free(w);
    return NULL;
  }
  w->pings = w->api->counter(vm, id, "pings");
  w->resets = w->api->counter(vm, id, "resets");
  return w;
}

void watchdog_free(struct watchdog *w) {
  if (!w) return;
  if (w->loop) w->api->loop_del(w->loop, w->timer_fd);
  if (w->timer_fd >= 0) close(w->timer_fd);
  pthread_mutex_destroy(&w->lock);
  pthread_mutex_destroy(&w->esb_lock);
  free(w);
}

/* --- virtio --- */

static int64_t ping(void *opaque, vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov) {
  struct watchdog *w = opaque;
  (void)queue;
  watchdog_set(w, w->timeout);
  if (w->pings) __atomic_add_fetch(w->pings, 1, __ATOMIC_RELAXED);
  for (uint32_t i = chain->n_out; i < chain->n_out + chain->n_in; i++) {
    if (!iov[i].iov_len) continue;
    *(uint8_t *)iov[i].iov_base = 1;
    return 1;
  }
  return 0;
}

int watchdog_serve(struct watchdog *w, void *queue, uint64_t ns) {
  w->timeout = ns;
  return w->api->queue_serve(queue, ping, w);
}
