/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The core as a data plane sees it, made of a few arrays: queues whose requests the test fills in, two loops, and
 * counters. A queue checks its user: what is popped is pushed once, what is put back was popped last, nothing
 * happens after the queues have ended. Loop 0 is the host's, loop 1 the queues'; each turns when the test calls
 * turn(), or in a thread of its own (loops_run()).
 */
#ifndef FAKE_CORE_H
#define FAKE_CORE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "vmmcore.h"

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                \
    }                                                                         \
  } while (0)

/* Turn both loops until something is so; fails after ten seconds. */
#define UNTIL(condition)                             \
  do {                                               \
    for (int left = 2000; !(condition); left--) {    \
      CHECK(left && #condition);                     \
      turn(5);                                       \
    }                                                \
  } while (0)

enum { FAKE_REQUESTS = 64, FAKE_PIECES = 8, FAKE_FDS = 256, FAKE_QUEUES = 80 };

struct fake_request {
  struct iovec iov[FAKE_PIECES];
  uint32_t n_out, n_in;
  bool popped, done;
  uint32_t written;
};

struct vmm_queue {
  pthread_mutex_t lock;
  vmm_loop *loop;
  uint64_t features;
  struct fake_request request[FAKE_REQUESTS];
  unsigned filled, next, done, flushed; /* requests: made available, popped, given back, shown to the driver */
  bool live, broken, notify;
  int kick_fd;
  vmm_queue_fn fn;
  void *opaque;
  vmm_request_fn serve;
  void *serve_opaque;
  bool again;
  char why[128];
};

struct fake_entry {
  int fd;
  bool used;
  vmm_fd_fn fn;
  void *opaque;
};

struct vmm_loop {
  int epoll_fd;
  pthread_mutex_t running, lock;
  struct fake_entry entry[FAKE_FDS];
  pthread_t thread;
  bool threaded;
  int stop;
};

static struct vmm_loop fake_loops[2];
static struct vmm_queue fake_queues[FAKE_QUEUES];
static struct {
  char name[32];
  uint64_t value;
} fake_counters[16];

/* --- loops --- */

static int fake_loop_add(vmm_loop *loop, int fd, uint32_t events, vmm_fd_fn fn, void *opaque) {
  pthread_mutex_lock(&loop->lock);
  unsigned i = 0;
  while (loop->entry[i].used) i++;
  CHECK(i < FAKE_FDS - 1);
  struct epoll_event e = {.events = events, .data.u32 = i};
  int error = epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
  if (!error) loop->entry[i] = (struct fake_entry){fd, true, fn, opaque};
  pthread_mutex_unlock(&loop->lock);
  return error;
}

static int fake_loop_del(vmm_loop *loop, int fd) {
  pthread_mutex_lock(&loop->lock);
  unsigned i = 0;
  while (i < FAKE_FDS && !(loop->entry[i].used && loop->entry[i].fd == fd)) i++;
  if (i < FAKE_FDS) {
    CHECK(!epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL));
    loop->entry[i].used = false;
  }
  pthread_mutex_unlock(&loop->lock);
  if (i == FAKE_FDS) return -ENOENT;
  if (loop->threaded && !pthread_equal(pthread_self(), loop->thread)) {
    pthread_mutex_lock(&loop->running);
    pthread_mutex_unlock(&loop->running);
  }
  return 0;
}

static bool turn_loop(struct vmm_loop *loop, int ms) {
  struct epoll_event e;
  if (epoll_wait(loop->epoll_fd, &e, 1, ms) <= 0) return false;
  pthread_mutex_lock(&loop->running);
  pthread_mutex_lock(&loop->lock);
  struct fake_entry entry = loop->entry[e.data.u32];
  pthread_mutex_unlock(&loop->lock);
  if (entry.used) entry.fn(entry.opaque, entry.fd, e.events);
  pthread_mutex_unlock(&loop->running);
  return true;
}

/* One handler of each loop; whether there was any. */
static inline bool turn_both(void) {
  bool first = turn_loop(&fake_loops[0], 0), second = turn_loop(&fake_loops[1], 0);
  return first || second;
}

/* Handle what has happened; if nothing has, wait a little. */
static inline void turn(int ms) {
  bool some = false;
  while (!fake_loops[0].threaded && turn_both()) some = true;
  if (!some) nanosleep(&(struct timespec){0, ms * 1000000L}, NULL);
}

static inline void *fake_thread(void *arg) {
  struct vmm_loop *loop = arg;
  while (!__atomic_load_n(&loop->stop, __ATOMIC_SEQ_CST)) turn_loop(loop, 20);
  return NULL;
}

static inline void loops_run(void) {
  for (int i = 0; i < 2; i++) {
    fake_loops[i].threaded = true;
    fake_loops[i].stop = 0;
    CHECK(!pthread_create(&fake_loops[i].thread, NULL, fake_thread, &fake_loops[i]));
  }
}

static inline void loops_end(void) {
  for (int i = 0; i < 2; i++) {
    __atomic_store_n(&fake_loops[i].stop, 1, __ATOMIC_SEQ_CST);
    pthread_join(fake_loops[i].thread, NULL);
    fake_loops[i].threaded = false;
  }
}

static vmm_loop *fake_loop(vmm_vm *vm, unsigned index) {
  (void)vm;
  CHECK(index < 2);
  return &fake_loops[index];
}

/* --- queues --- */

static int fake_pop(vmm_queue *q, struct vmm_chain *chain, struct iovec *iov, uint32_t cap) {
  pthread_mutex_lock(&q->lock);
  CHECK(q->live && cap >= FAKE_REQUESTS);
  int found = q->broken ? -EPROTO : q->next < q->filled;
  if (found > 0) {
    struct fake_request *r = &q->request[q->next % FAKE_REQUESTS];
    *chain = (struct vmm_chain){.id = (uint16_t)q->next, .slots = 1, .n_out = r->n_out, .n_in = r->n_in};
    for (uint32_t i = 0; i < r->n_out + r->n_in; i++) {
      iov[i] = r->iov[i];
      *(i < r->n_out ? &chain->out_len : &chain->in_len) += r->iov[i].iov_len;
    }
    r->popped = true;
    q->next++;
  }
  pthread_mutex_unlock(&q->lock);
  return found;
}

static void fake_unpop(vmm_queue *q, const struct vmm_chain *chain) {
  pthread_mutex_lock(&q->lock);
  CHECK(q->live && q->next > 0 && chain->id == (uint16_t)(q->next - 1));
  struct fake_request *r = &q->request[--q->next % FAKE_REQUESTS];
  CHECK(r->popped && !r->done);
  r->popped = false;
  pthread_mutex_unlock(&q->lock);
}

static void fake_push(vmm_queue *q, const struct vmm_chain *chain, const struct iovec *iov, uint32_t written) {
  pthread_mutex_lock(&q->lock);
  CHECK(q->live && chain->id == (uint16_t)q->done); /* in order */
  struct fake_request *r = &q->request[q->done % FAKE_REQUESTS];
  uint64_t room = 0;
  for (uint32_t i = r->n_out; i < r->n_out + r->n_in; i++) {
    room += r->iov[i].iov_len;
    CHECK(iov[i].iov_base == r->iov[i].iov_base);
  }
  CHECK(r->popped && !r->done && written <= room);
  r->written = written;
  r->done = true;
  q->done++;
  pthread_mutex_unlock(&q->lock);
}

static int fake_flush(vmm_queue *q) {
  pthread_mutex_lock(&q->lock);
  CHECK(q->live);
  q->flushed = q->done;
  pthread_mutex_unlock(&q->lock);
  return 1;
}

static int fake_wait(vmm_queue *q) {
  pthread_mutex_lock(&q->lock);
  CHECK(q->live && q->flushed == q->done); /* or the driver would never hear of the last ones */
  q->notify = true;
  int more = q->next < q->filled;
  pthread_mutex_unlock(&q->lock);
  return more;
}

static void fake_quiet(vmm_queue *q) {
  pthread_mutex_lock(&q->lock);
  CHECK(q->live && q->flushed == q->done);
  q->notify = false;
  pthread_mutex_unlock(&q->lock);
}

static void fake_fail(vmm_queue *q, const char *why) {
  pthread_mutex_lock(&q->lock);
  CHECK(!strchr(why, '\n'));
  snprintf(q->why, sizeof q->why, "%s", why);
  pthread_mutex_unlock(&q->lock);
}

static uint32_t fake_size(vmm_queue *q) {
  (void)q;
  return FAKE_REQUESTS;
}
static uint64_t fake_features(vmm_queue *q) { return q->features; }
static vmm_loop *fake_queue_loop(vmm_queue *q) { return q->loop; }

static void fake_on_kick(void *opaque, int fd, uint32_t events) {
  vmm_queue *q = opaque;
  eventfd_t value;
  (void)events;
  if (!eventfd_read(fd, &value)) q->fn(q->opaque, q);
}

static int fake_handle(vmm_queue *q, vmm_queue_fn fn, void *opaque) {
  q->fn = fn;
  q->opaque = opaque;
  q->kick_fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
  return fake_loop_add(q->loop, q->kick_fd, EPOLLIN, fake_on_kick, q);
}

static void fake_again(vmm_queue *q) {
  pthread_mutex_lock(&q->lock);
  CHECK(q->live);
  q->again = true;
  if (q->kick_fd >= 0) eventfd_write(q->kick_fd, 1);
  pthread_mutex_unlock(&q->lock);
}

static bool fake_take_again(vmm_queue *q) {
  pthread_mutex_lock(&q->lock);
  bool again = q->again;
  q->again = false;
  pthread_mutex_unlock(&q->lock);
  return again;
}

/* As the core does it, but through the table: a test may put its own functions there. */
static void fake_serve_some(void *opaque, vmm_queue *q) {
  const struct vmm_api *api = opaque;
  struct vmm_chain chain;
  struct iovec iov[FAKE_REQUESTS + 8];
  unsigned left = 32;
  fake_take_again(q);
  do {
    int got = 0;
    while (left && (got = api->queue_pop(q, &chain, iov, FAKE_REQUESTS + 8)) > 0) {
      int64_t done = q->serve(q->serve_opaque, q, &chain, iov);
      if (done == VMM_REQUEST_LATER) {
        api->queue_unpop(q, &chain);
        api->queue_flush(q);
        api->queue_quiet(q);
        return;
      }
      if (done >= 0) api->queue_push(q, &chain, iov, (uint32_t)done);
      left = fake_take_again(q) ? 0 : left - 1;
    }
    api->queue_flush(q);
    if (got < 0) return;
    if (!left) {
      api->queue_again(q);
      return;
    }
  } while (api->queue_wait(q));
}

/* The driver sets up queue `i`. */
static inline vmm_queue *queue_begin(unsigned i) {
  CHECK(i < FAKE_QUEUES);
  vmm_queue *q = &fake_queues[i];
  memset(q, 0, sizeof *q);
  pthread_mutex_init(&q->lock, NULL);
  q->loop = &fake_loops[1];
  q->live = q->notify = true;
  q->kick_fd = -1;
  return q;
}

/* Before the device's stop(): no handler is called any more. What is in the queue stays (a pause). */
static inline void queue_unhandle(vmm_queue *q) {
  if (q->kick_fd < 0) return;
  fake_loop_del(q->loop, q->kick_fd);
  close(q->kick_fd);
  q->kick_fd = -1;
}

/* After the device's stop(): the queue is gone. */
static inline void queue_end(vmm_queue *q) {
  pthread_mutex_lock(&q->lock);
  q->live = false;
  pthread_mutex_unlock(&q->lock);
}

/* Make a request of pieces available; kicks if the device asked for it. Returns it, or NULL: no room. */
static inline struct fake_request *submit(vmm_queue *q, const struct iovec *iov, uint32_t n_out, uint32_t n_in) {
  pthread_mutex_lock(&q->lock);
  struct fake_request *r = NULL;
  if (q->filled - q->done < FAKE_REQUESTS) {
    r = &q->request[q->filled % FAKE_REQUESTS];
    *r = (struct fake_request){.n_out = n_out, .n_in = n_in};
    CHECK(n_out + n_in <= FAKE_PIECES);
    if (n_out + n_in) memcpy(r->iov, iov, (n_out + n_in) * sizeof *iov);
    q->filled++;
    if (q->notify && q->kick_fd >= 0) eventfd_write(q->kick_fd, 1);
  }
  pthread_mutex_unlock(&q->lock);
  return r;
}

static inline struct fake_request *submit_in(vmm_queue *q, void *to, size_t len) {
  return submit(q, &(struct iovec){to, len}, 0, 1);
}

static inline struct fake_request *submit_out(vmm_queue *q, const void *from, size_t len) {
  return submit(q, &(struct iovec){(void *)(uintptr_t)from, len}, 1, 0);
}

/* Requests that the driver has been told of. */
static inline unsigned seen(vmm_queue *q) {
  pthread_mutex_lock(&q->lock);
  unsigned n = q->flushed;
  pthread_mutex_unlock(&q->lock);
  return n;
}

/* --- the rest --- */

static uint64_t *fake_counter(vmm_vm *vm, const char *device, const char *name) {
  (void)vm;
  CHECK(*device);
  for (unsigned i = 0; i < 16; i++) {
    if (!*fake_counters[i].name) snprintf(fake_counters[i].name, sizeof fake_counters[i].name, "%s", name);
    if (!strcmp(fake_counters[i].name, name)) return &fake_counters[i].value;
  }
  abort();
}

static inline uint64_t counted(const char *name) {
  return __atomic_load_n(fake_counter(NULL, "-", name), __ATOMIC_RELAXED);
}

static uint64_t fake_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int fake_serve(vmm_queue *q, vmm_request_fn fn, void *opaque);

static struct vmm_api fake_api = {
    .magic = VMM_API_MAGIC, .major = VMM_API_MAJOR, .minor = VMM_API_MINOR, .size = sizeof(struct vmm_api),
    .loop = fake_loop, .loop_add = fake_loop_add, .loop_del = fake_loop_del, .now_ns = fake_now,
    .queue_pop = fake_pop, .queue_unpop = fake_unpop, .queue_push = fake_push, .queue_flush = fake_flush,
    .queue_wait = fake_wait, .queue_quiet = fake_quiet, .queue_fail = fake_fail, .queue_size = fake_size,
    .queue_features = fake_features, .queue_loop = fake_queue_loop, .queue_handle = fake_handle,
    .counter = fake_counter, .queue_serve = fake_serve, .queue_again = fake_again,
};

static int fake_serve(vmm_queue *q, vmm_request_fn fn, void *opaque) {
  q->serve = fn;
  q->serve_opaque = opaque;
  return fake_api.queue_handle(q, fake_serve_some, &fake_api);
}

static inline void core_begin(void) {
  memset(fake_counters, 0, sizeof fake_counters);
  for (int i = 0; i < 2; i++) {
    memset(&fake_loops[i], 0, sizeof fake_loops[i]);
    fake_loops[i].epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    pthread_mutex_init(&fake_loops[i].running, NULL);
    pthread_mutex_init(&fake_loops[i].lock, NULL);
  }
}

/* Nothing of the device may be left on a loop. */
static inline void core_end(void) {
  for (int i = 0; i < 2; i++) {
    for (unsigned n = 0; n < FAKE_FDS; n++) CHECK(!fake_loops[i].entry[n].used);
    close(fake_loops[i].epoll_fd);
  }
}

#endif
