/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio 1.2 §5.5. All of it runs on the queues' loop, which they share. Page numbers are the guest's: each is read
 * once, runs of them go through the core's one check (mem), and what is no RAM is counted and left alone.
 */
#define _GNU_SOURCE
#include "balloon.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vmmcore.h"

enum {
  PAGE = 4096,    /* of page numbers, whatever the guest's pages are (§5.5.6) */
  MOST = 65536,   /* pages in a row, and page numbers of one request that count: others use the loop too */
  BATCH = 16,     /* requests in a row, for the same reason */
  STAT = 10,      /* bytes of one: tag le16, value le64 (§5.5.6.3) */
  MAX_REPORTS = 3,
};

struct served { /* a queue and what is done with it */
  struct balloon *b;
  vmm_queue *queue;
  bool (*serve)(struct balloon *b, struct vmm_chain *chain);
  int wake_fd; /* to go on later */
};

struct balloon {
  const struct vmm_api *api;
  vmm_vm *vm;
  uint64_t *inflated, *deflated, *reported, *refused; /* counters, bytes; the last: requests that could not be honoured */
  uint64_t stats[BALLOON_STATS]; /* atomic */
  int ask_fd;

  vmm_loop *loop; /* NULL: stopped */
  struct served served[3 + MAX_REPORTS];
  unsigned n;
  struct iovec *iov;
  uint32_t cap;
  vmm_queue *stats_queue;
  struct vmm_chain held; /* the request that the driver hears of when statistics are wanted */
  bool holding;
};

static void count(uint64_t *counter, uint64_t n) {
  if (counter) __atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

/* Give memory of the guest back to the host: it reads as zeros, or as anything that is behind it, from now on. */
static bool discard(void *host, size_t len) {
  /* The first is for memory that others map too, and refused for what is private. */
  return !madvise(host, len, MADV_REMOVE) || !madvise(host, len, MADV_DONTNEED);
}

/* A run of pages, by number. */
static void take(struct balloon *b, uint64_t page, uint64_t n) {
  if (!n) return;
  void *host = b->api->mem(b->vm, page * PAGE, n * PAGE);
  if (host && discard(host, n * PAGE)) {
    b->api->mem_dirty(b->vm, page * PAGE, n * PAGE);
    count(b->inflated, n * PAGE);
  } else if (n == 1) {
    count(b->refused, PAGE);
  } else { /* some of them are no RAM, or the run crosses from one region to the next */
    take(b, page, n / 2);
    take(b, page + n / 2, n - n / 2);
  }
}

/* Reads what the driver wrote in the readable pieces of a request, once. */
struct reader {
  const struct iovec *iov;
  uint32_t left;
  size_t at;
};

static bool read_bytes(struct reader *r, void *out, size_t len) {
  for (uint8_t *to = out; len;) {
    while (r->left && r->at == r->iov->iov_len) r->iov++, r->left--, r->at = 0;
    if (!r->left) return false;
    size_t n = r->iov->iov_len - r->at;
    if (n > len) n = len;
    memcpy(to, (const uint8_t *)r->iov->iov_base + r->at, n);
    to += n, len -= n, r->at += n;
  }
  return true;
}

static bool inflate(struct balloon *b, struct vmm_chain *chain) {
  struct reader r = {b->iov, chain->n_out, 0};
  uint64_t first = 0, n = 0; /* the run so far; drivers hand pages out upwards or downwards */
  uint32_t page, left = MOST;
  for (; left && read_bytes(&r, &page, sizeof page); left--) {
    if (n && page == first + n) {
      n++;
    } else if (n && (uint64_t)page + 1 == first) {
      first--, n++;
    } else {
      take(b, first, n);
      first = page, n = 1;
    }
  }
  take(b, first, n);
  if (!left) count(b->refused, chain->out_len - (uint64_t)MOST * sizeof page);
  return true;
}

/* The memory comes back at the first touch. */
static bool deflate(struct balloon *b, struct vmm_chain *chain) {
  count(b->deflated, chain->out_len / sizeof(uint32_t) * PAGE);
  return true;
}

/* Free page reporting (§5.5.6.7): the buffers are the pages, and are memory that was checked. */
static bool report(struct balloon *b, struct vmm_chain *chain) {
  for (uint32_t i = chain->n_out; i < chain->n_out + chain->n_in; i++) {
    uintptr_t from = ((uintptr_t)b->iov[i].iov_base + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    uintptr_t to = ((uintptr_t)b->iov[i].iov_base + b->iov[i].iov_len) & ~(uintptr_t)(PAGE - 1);
    if (from < to) count(discard((void *)from, to - from) ? b->reported : b->refused, to - from);
  }
  return true;
}

static void let_go(struct balloon *b) {
  if (!b->holding) return;
  b->holding = false;
  b->api->queue_push(b->stats_queue, &b->held, b->iov, 0);
}

/* §5.5.6.3: the request stays with us until we want other numbers. */
static bool statistics(struct balloon *b, struct vmm_chain *chain) {
  struct reader r = {b->iov, chain->n_out, 0};
  uint8_t stat[STAT];
  let_go(b); /* a second one: there ought to be one at a time */
  for (unsigned i = 0; i < 4 * BALLOON_STATS && read_bytes(&r, stat, sizeof stat); i++) {
    uint64_t tag = vmm_load(stat, 2), value = vmm_load(stat + 2, 8);
    if (tag < BALLOON_STATS) __atomic_store_n(&b->stats[tag], value, __ATOMIC_RELAXED);
  }
  b->held = *chain;
  b->holding = true;
  return false;
}

/* Pages that a request is about, whatever its queue; the first in a row always fits. */
static uint64_t pages_of(const struct vmm_chain *chain) {
  uint64_t n = chain->out_len / sizeof(uint32_t) + chain->in_len / PAGE;
  return n < MOST ? n : MOST;
}

static void run(struct served *s) {
  const struct vmm_api *api = s->b->api;
  struct vmm_chain chain;
  unsigned left = BATCH;
  uint64_t pages = MOST;
  do {
    int got = 0;
    while (left && (got = api->queue_pop(s->queue, &chain, s->b->iov, s->b->cap)) > 0) {
      if (pages_of(&chain) > pages) { /* it is the first of the next call */
        api->queue_unpop(s->queue, &chain);
        left = 0;
        break;
      }
      pages -= pages_of(&chain);
      if (s->serve(s->b, &chain)) api->queue_push(s->queue, &chain, s->b->iov, 0);
      left--;
    }
    api->queue_flush(s->queue);
    if (got < 0) return;
    if (!left) {
      eventfd_write(s->wake_fd, 1);
      return;
    }
  } while (api->queue_wait(s->queue));
}

static void on_kick(void *opaque, vmm_queue *queue) {
  struct served *s = opaque;
  (void)queue;
  run(s);
}

static void on_wake(void *opaque, int fd, uint32_t events) {
  eventfd_t n;
  (void)events;
  if (!eventfd_read(fd, &n)) run(opaque);
}

static void on_ask(void *opaque, int fd, uint32_t events) {
  struct balloon *b = opaque;
  eventfd_t n;
  (void)events;
  if (eventfd_read(fd, &n) || !b->holding) return;
  let_go(b);
  b->api->queue_flush(b->stats_queue);
}

static int add(struct balloon *b, void *queue, bool (*serve)(struct balloon *, struct vmm_chain *)) {
  if (!queue) return 0;
  struct served *s = &b->served[b->n];
  s->queue = queue;
  s->serve = serve;
  int error = b->api->loop_add(b->loop, s->wake_fd, EPOLLIN, on_wake, s);
  if (error) return error;
  b->n++;
  return b->api->queue_handle(queue, on_kick, s);
}

int balloon_start(struct balloon *b, void *inflate_queue, void *deflate_queue, void *stats_queue, void *const reports[],
                  unsigned n) {
  void *some = inflate_queue ? inflate_queue : deflate_queue ? deflate_queue : stats_queue;
  if (b->loop) return -EBUSY;
  if (n > MAX_REPORTS) return -EINVAL;
  for (unsigned i = 0; i < n && !some; i++) some = reports[i];
  if (!some) return 0; /* the driver set up none */
  b->loop = b->api->queue_loop(some);
  b->n = 0;
  b->stats_queue = stats_queue;
  b->holding = false;
  b->cap = 0;
  void *all[3 + MAX_REPORTS] = {inflate_queue, deflate_queue, stats_queue};
  for (unsigned i = 0; i < n; i++) all[3 + i] = reports[i];
  for (unsigned i = 0; i < 3 + MAX_REPORTS; i++)
    if (all[i] && b->api->queue_size(all[i]) + 8 > b->cap) b->cap = b->api->queue_size(all[i]) + 8;
  b->iov = calloc(b->cap, sizeof *b->iov);
  int error = b->iov ? b->api->loop_add(b->loop, b->ask_fd, EPOLLIN, on_ask, b) : -ENOMEM;
  if (!error) error = add(b, inflate_queue, inflate);
  if (!error) error = add(b, deflate_queue, deflate);
  if (!error) error = add(b, stats_queue, statistics);
  for (unsigned i = 0; i < n && !error; i++) error = add(b, reports[i], report);
  return error; /* some queues may be served by now: the caller stops the device before balloon_stop() */
}

void balloon_stop(struct balloon *b) {
  if (!b->loop) return;
  b->api->loop_del(b->loop, b->ask_fd);
  for (unsigned i = 0; i < b->n; i++) b->api->loop_del(b->loop, b->served[i].wake_fd);
  if (b->holding) b->api->queue_unpop(b->stats_queue, &b->held);
  b->holding = false;
  b->loop = NULL;
  free(b->iov);
  b->iov = NULL;
}

void balloon_ask(struct balloon *b) {
  eventfd_write(b->ask_fd, 1);
}

void balloon_stats(struct balloon *b, uint64_t out[BALLOON_STATS]) {
  for (unsigned i = 0; i < BALLOON_STATS; i++) out[i] = __atomic_load_n(&b->stats[i], __ATOMIC_RELAXED);
}

struct balloon *balloon_new(const void *api, void *vm, const char *id, int *error) {
  *error = vmm_api_check(api, 1) ? -ENOTSUP : 0;
  struct balloon *b = *error ? NULL : calloc(1, sizeof *b);
  if (!b) return *error = *error ? *error : -ENOMEM, NULL;
  b->api = api;
  b->vm = vm;
  b->ask_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  bool good = b->ask_fd >= 0;
  for (unsigned i = 0; i < 3 + MAX_REPORTS; i++) {
    b->served[i] = (struct served){.b = b, .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    good = good && b->served[i].wake_fd >= 0;
  }
  if (!good) {
    *error = -errno;
    balloon_free(b);
    return NULL;
  }
  memset(b->stats, 0xff, sizeof b->stats);
  b->inflated = b->api->counter(vm, id, "inflated_bytes");
  b->deflated = b->api->counter(vm, id, "deflated_bytes");
  b->reported = b->api->counter(vm, id, "reported_bytes");
  b->refused = b->api->counter(vm, id, "refused_bytes");
  return b;
}

void balloon_free(struct balloon *b) {
  if (!b) return;
  balloon_stop(b);
  for (unsigned i = 0; i < 3 + MAX_REPORTS; i++)
    if (b->served[i].wake_fd >= 0) close(b->served[i].wake_fd);
  if (b->ask_fd >= 0) close(b->ask_fd);
  free(b);
}
