/* SPDX-License-Identifier: Apache-2.0 */
/* The timer, and the virtio front end: the driver pings by a request of one writable byte, which is answered with 1. */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum {
  PIECES = 72, /* more than the queue of 8 can hold */
  BATCH = 32,  /* pings in a row: others use the loop too, and wait for it */
};

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
  *error = vmm_api_check(api, 3) ? -ENOTSUP : 0;
  struct watchdog *w = *error ? NULL : calloc(1, sizeof *w);
  if (!w) return *error = *error ? *error : -ENOMEM, NULL;
  w->api = api;
  w->vm = vm;
  w->token = token;
  w->wake_fd = -1;
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
  watchdog_unserve(w);
  if (w->wake_fd >= 0) close(w->wake_fd);
  if (w->loop) w->api->loop_del(w->loop, w->timer_fd);
  if (w->timer_fd >= 0) close(w->timer_fd);
  pthread_mutex_destroy(&w->lock);
  pthread_mutex_destroy(&w->esb_lock);
  free(w);
}

/* --- virtio --- */

static void run(struct watchdog *w) {
  vmm_queue *queue = w->queue;
  struct iovec iov[PIECES];
  struct vmm_chain chain;
  unsigned left = BATCH;
  do {
    int got = 0;
    uint64_t pings = 0;
    while (left && (got = w->api->queue_pop(queue, &chain, iov, PIECES)) > 0) {
      uint32_t written = 0;
      for (uint32_t i = chain.n_out; i < chain.n_out + chain.n_in && !written; i++)
        if (iov[i].iov_len) *(uint8_t *)iov[i].iov_base = 1, written = 1;
      w->api->queue_push(queue, &chain, iov, written);
      pings++, left--;
    }
    w->api->queue_flush(queue);
    if (pings) watchdog_set(w, w->timeout);
    if (w->pings) __atomic_add_fetch(w->pings, pings, __ATOMIC_RELAXED);
    if (got < 0) return;
    if (!left) {
      eventfd_write(w->wake_fd, 1);
      return;
    }
  } while (w->api->queue_wait(queue));
}

static void on_kick(void *opaque, vmm_queue *queue) {
  (void)queue;
  run(opaque);
}

static void on_wake(void *opaque, int fd, uint32_t events) {
  eventfd_t n;
  (void)events;
  if (!eventfd_read(fd, &n)) run(opaque);
}

int watchdog_serve(struct watchdog *w, void *queue, uint64_t ns) {
  if (w->queue) return -EBUSY;
  if (w->wake_fd < 0) w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (w->wake_fd < 0) return -errno;
  w->timeout = ns;
  w->queue = queue;
  w->queue_loop = w->api->queue_loop(queue);
  int error = w->api->loop_add(w->queue_loop, w->wake_fd, EPOLLIN, on_wake, w);
  if (!error) error = w->api->queue_handle(queue, on_kick, w);
  if (error) watchdog_unserve(w);
  return error;
}

void watchdog_unserve(struct watchdog *w) {
  if (!w->queue) return;
  w->api->loop_del(w->queue_loop, w->wake_fd); /* returns when nothing of ours runs any more */
  w->queue = NULL;
}
