/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio 1.2 §5.4. All of it runs on the queue's loop. A request that must wait (for the source, for the rate
 * limit) is put back into the queue, so that between two calls of serve() the device holds nothing.
 */
#define _GNU_SOURCE
#include "rng.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "vmm_bucket.h"
#include "vmmcore.h"

enum {
  MOST = 16384,  /* bytes for one request: the driver may ask for 4 GiB, others use the loop too */
  PIECES = 1024, /* IOV_MAX */
};
#define RETRY_NS 10000000u /* for a source that neither has bytes nor can be polled */

enum source { SOURCE_FILE, SOURCE_DEVICE, SOURCE_FIFO };

struct rng {
  const struct vmm_api *api;
  vmm_vm *vm;
  int fd, timer_fd;
  enum source kind;
  struct vmm_limiter limit;
  uint64_t *requests, *bytes, *throttled; /* counters */

  vmm_queue *queue; /* NULL: stopped. All below only on its loop then */
  vmm_loop *loop;
  bool polled, failed;
};

static void count(uint64_t *counter, uint64_t n) {
  if (counter) __atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

static void call_in(struct rng *r, uint64_t ns) {
  struct itimerspec t = {.it_value = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)}};
  timerfd_settime(r->timer_fd, 0, &t, NULL);
}

/* What readv() says; -1 with EAGAIN: later. */
static ssize_t read_source(struct rng *r, const struct iovec *iov, uint32_t n) {
  ssize_t got;
  do got = readv(r->fd, iov, (int)n);
  while (got < 0 && errno == EINTR);
  if (!got && r->kind == SOURCE_FIFO) return errno = EAGAIN, -1; /* no writer yet, or none any more */
  return got;
}

/* The pieces of the request that MOST bytes go to. The last one is cut; nothing is written behind it. */
static uint32_t cut(struct iovec *iov, uint32_t n, uint64_t *size) {
  uint64_t room = 0;
  uint32_t i = 0;
  for (; i < n && i < PIECES && room < MOST; i++) {
    if (iov[i].iov_len > MOST - room) iov[i].iov_len = MOST - room;
    room += iov[i].iov_len;
  }
  *size = room;
  return i;
}

static int64_t serve(void *opaque, vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov) {
  struct rng *r = opaque;
  uint64_t size;
  uint32_t n = cut(iov + chain->n_out, chain->n_in, &size);
  ssize_t got = 0;
  if (r->failed) return VMM_REQUEST_LATER;
  if (size) {
    uint64_t now = vmm_limiter_on(&r->limit) ? r->api->now_ns() : 0;
    uint64_t a = vmm_bucket_wait(&r->limit.bytes, size, now), b = vmm_bucket_wait(&r->limit.ops, 1, now);
    if (a || b) {
      count(r->throttled, 1);
      call_in(r, a > b ? a : b);
      return VMM_REQUEST_LATER;
    }
    got = read_source(r, iov + chain->n_out, n);
    if (got < 0 && errno == EAGAIN) { /* the timer or the source will call */
      if (!r->polled) call_in(r, RETRY_NS);
      return VMM_REQUEST_LATER;
    }
    if (got <= 0) {
      char why[96];
      snprintf(why, sizeof why, "the source of random bytes %s%s", got ? "cannot be read: " : "has come to its end",
               got ? strerror(errno) : "");
      r->failed = true;
      r->api->queue_fail(queue, why);
      return VMM_REQUEST_LATER;
    }
    vmm_bucket_spend(&r->limit.bytes, (uint64_t)got);
    vmm_bucket_spend(&r->limit.ops, 1);
  }
  count(r->requests, 1);
  count(r->bytes, (uint64_t)got);
  return got;
}

/* Timer or source. */
static void on_fd(void *opaque, int fd, uint32_t events) {
  struct rng *r = opaque;
  uint64_t ticks;
  (void)events;
  if (fd == r->fd || read(fd, &ticks, sizeof ticks) > 0) r->api->queue_again(r->queue);
}

int rng_start(struct rng *r, void *queue) {
  if (r->queue) return -EBUSY;
  r->queue = queue;
  r->failed = false;
  r->loop = r->api->queue_loop(queue);
  int error = r->api->loop_add(r->loop, r->timer_fd, EPOLLIN, on_fd, r);
  /* Edges only: a FIFO without a writer is hung up, and would say so for ever. */
  if (!error) r->polled = !r->api->loop_add(r->loop, r->fd, EPOLLIN | (uint32_t)EPOLLET, on_fd, r);
  if (!error) error = r->api->queue_serve(queue, serve, r);
  if (error) rng_stop(r);
  return error;
}

void rng_stop(struct rng *r) {
  if (!r->queue) return;
  r->api->loop_del(r->loop, r->timer_fd);
  if (r->polled) r->api->loop_del(r->loop, r->fd);
  r->polled = false;
  r->queue = NULL;
}

struct rng *rng_new(const void *api, void *vm, const char *id, int source, const uint64_t bw[3],
                    const uint64_t ops[3], int *error) {
  struct rng *r = NULL;
  struct stat st;
  *error = vmm_api_check(api, 4) ? -ENOTSUP : fstat(source, &st) ? -errno : 0;
  if (*error || !(r = calloc(1, sizeof *r))) {
    if (!*error) *error = -ENOMEM;
    close(source);
    return NULL;
  }
  r->api = api;
  r->vm = vm;
  r->fd = source;
  r->kind = S_ISFIFO(st.st_mode) ? SOURCE_FIFO : S_ISREG(st.st_mode) ? SOURCE_FILE : SOURCE_DEVICE;
  r->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (r->timer_fd < 0 || fcntl(source, F_SETFL, fcntl(source, F_GETFL) | O_NONBLOCK) < 0) {
    *error = -errno;
    rng_free(r);
    return NULL;
  }
  uint64_t now = r->api->now_ns();
  vmm_bucket_init(&r->limit.bytes, bw[0], bw[1], bw[2], now);
  vmm_bucket_init(&r->limit.ops, ops[0], ops[1], ops[2], now);
  r->requests = r->api->counter(vm, id, "requests");
  r->bytes = r->api->counter(vm, id, "bytes");
  r->throttled = r->api->counter(vm, id, "throttled");
  return r;
}

void rng_free(struct rng *r) {
  if (!r) return;
  rng_stop(r);
  close(r->fd);
  if (r->timer_fd >= 0) close(r->timer_fd);
  free(r);
}
