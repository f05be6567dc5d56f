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
  MOST = 65536,   /* pages of one request that count, and of all in a turn: others use the loop too */
  STAT = 10,      /* bytes of one: tag le16, value le64 (§5.5.6.3) */
};

struct balloon {
  const struct vmm_api *api;
  vmm_vm *vm;
  uint64_t *inflated, *deflated, *reported, *refused; /* counters, bytes; the last: requests that could not be honoured */
  uint64_t stats[BALLOON_STATS]; /* atomic */
  int ask_fd;

  vmm_loop *loop; /* NULL: stopped */
  uint64_t pages; /* that the queues were about since one of them let others have the loop */
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

/* After MOST pages, in one request or several, others have the loop. */
static void account(struct balloon *b, vmm_queue *queue, const struct vmm_chain *chain) {
  b->pages += chain->out_len / sizeof(uint32_t) + chain->in_len / PAGE;
  if (b->pages < MOST) return;
  b->pages = 0;
  b->api->queue_again(queue);
}

static int64_t inflate(void *opaque, vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov) {
  struct balloon *b = opaque;
  struct reader r = {iov, chain->n_out, 0};
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
  account(b, queue, chain);
  return 0;
}

/* The memory comes back at the first touch. */
static int64_t deflate(void *opaque, vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov) {
  struct balloon *b = opaque;
  (void)queue, (void)iov;
  count(b->deflated, chain->out_len / sizeof(uint32_t) * PAGE);
  return 0;
}

/* Free page reporting (§5.5.6.7): the buffers are the pages, and are memory that was checked. */
static int64_t report(void *opaque, vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov) {
  struct balloon *b = opaque;
  for (uint32_t i = chain->n_out; i < chain->n_out + chain->n_in; i++) {
    uintptr_t from = ((uintptr_t)iov[i].iov_base + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    uintptr_t to = ((uintptr_t)iov[i].iov_base + iov[i].iov_len) & ~(uintptr_t)(PAGE - 1);
    if (from < to) count(discard((void *)from, to - from) ? b->reported : b->refused, to - from);
  }
  account(b, queue, chain);
  return 0;
}

static void let_go(struct balloon *b) {
  if (!b->holding) return;
  b->holding = false;
  b->api->queue_push(b->stats_queue, &b->held, NULL, 0);
}

/* §5.5.6.3: the request stays with us until we want other numbers. */
static int64_t statistics(void *opaque, vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov) {
  struct balloon *b = opaque;
  struct reader r = {iov, chain->n_out, 0};
  uint8_t stat[STAT];
  (void)queue;
  let_go(b); /* a second one: there ought to be one at a time */
  for (unsigned i = 0; i < 4 * BALLOON_STATS && read_bytes(&r, stat, sizeof stat); i++) {
    uint64_t tag = vmm_load(stat, 2), value = vmm_load(stat + 2, 8);
    if (tag < BALLOON_STATS) __atomic_store_n(&b->stats[tag], value, __ATOMIC_RELAXED);
  }
  b->held = *chain;
  b->holding = true;
  return VMM_REQUEST_KEPT;
}

static void on_ask(void *opaque, int fd, uint32_t events) {
  struct balloon *b = opaque;
  eventfd_t n;
  (void)events;
  if (eventfd_read(fd, &n) || !b->holding) return;
  let_go(b);
  b->api->queue_flush(b->stats_queue);
}

int balloon_start(struct balloon *b, void *inflate_queue, void *deflate_queue, void *stats_queue, void *const reports[],
                  unsigned n) {
  void *some = inflate_queue ? inflate_queue : deflate_queue ? deflate_queue : stats_queue;
  if (b->loop) return -EBUSY;
  for (unsigned i = 0; i < n && !some; i++) some = reports[i];
  if (!some) return 0; /* the driver set up none */
  b->loop = b->api->queue_loop(some);
  b->pages = 0;
  b->stats_queue = stats_queue;
  b->holding = false;
  int error = b->api->loop_add(b->loop, b->ask_fd, EPOLLIN, on_ask, b);
  if (!error && inflate_queue) error = b->api->queue_serve(inflate_queue, inflate, b);
  if (!error && deflate_queue) error = b->api->queue_serve(deflate_queue, deflate, b);
  if (!error && stats_queue) error = b->api->queue_serve(stats_queue, statistics, b);
  for (unsigned i = 0; i < n && !error; i++)
    if (reports[i]) error = b->api->queue_serve(reports[i], report, b);
  return error; /* some queues may be served by now: the caller stops the device before balloon_stop() */
}

void balloon_stop(struct balloon *b) {
  if (!b->loop) return;
  b->api->loop_del(b->loop, b->ask_fd);
  if (b->holding) b->api->queue_unpop(b->stats_queue, &b->held);
  b->holding = false;
  b->loop = NULL;
}

void balloon_ask(struct balloon *b) {
  eventfd_write(b->ask_fd, 1);
}

void balloon_stats(struct balloon *b, uint64_t out[BALLOON_STATS]) {
  for (unsigned i = 0; i < BALLOON_STATS; i++) out[i] = __atomic_load_n(&b->stats[i], __ATOMIC_RELAXED);
}

struct balloon *balloon_new(const void *api, void *vm, const char *id, int *error) {
  *error = vmm_api_check(api, 4) ? -ENOTSUP : 0;
  struct balloon *b = *error ? NULL : calloc(1, sizeof *b);
  if (!b) return *error = *error ? *error : -ENOMEM, NULL;
  b->api = api;
  b->vm = vm;
  b->ask_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (b->ask_fd < 0) {
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
  if (b->ask_fd >= 0) close(b->ask_fd);
  free(b);
}
