/* SPDX-License-Identifier: Apache-2.0 */
/*
 * virtio-blk's data plane. Each queue lives on one loop: kicks, completions (the ring's fd, or the eventfd that the
 * thread pool writes) and the rate limit's timer all end in run(), so that nothing of a queue needs a lock.
 */
#define _GNU_SOURCE
#include "blk.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "pool.h"
#include "request.h"
#include "uring.h"
#include "vmm_bucket.h"

enum {
  ROUNDS = 64, /* of run(), before other users of the loop have their turn */
  ACCEPT = 256, /* requests a round: those that end at once, a wrong one say, take no place */
  BUSY = 8, /* so many reads and writes are under way that one will end soon: new requests can wait for that */
};

struct queue {
  struct blk *blk;
  vmm_queue *vq; /* NULL: not started */
  vmm_loop *loop;
  uint32_t cap, in_flight, transfers; /* transfers: of those in flight the reads and writes */
  struct limits limits;
  struct request *free;
  void *arena;
  bool uring, dirty; /* dirty: pushed, not flushed */
  bool throttled, finished;
  bool live; /* its loop knows it */
  _Atomic bool stopping;
  struct uring ring;
  int wake_fd, timer_fd;
  sem_t drained;
  pthread_mutex_t lock; /* of `done` */
  struct request *done;
  struct blk_counters count;
};

struct blk {
  const struct vmm_api *api;
  vmm_vm *vm;
  struct disk disk;
  char id[ID_BYTES];
  bool no_uring, limited;
  _Atomic bool writeback;
  struct pool *pool;
  pthread_mutex_t lock; /* of `limiter`, which the queues share */
  struct vmm_limiter limiter;
  uint32_t n;
  struct queue queues[];
};

/* --- a request's way --- */

static void add(uint64_t *counter, uint64_t n) { /* one thread writes, others read */
  __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static void count(struct blk_counters *c, const struct request *r) {
  if (r->result != S_OK) {
    add(&c->errors, 1);
    return;
  }
  switch (r->type) {
    case T_IN: add(&c->read_ops, 1), add(&c->read_bytes, request_bytes(r)); break;
    case T_OUT: add(&c->write_ops, 1), add(&c->write_bytes, request_bytes(r)); break;
    case T_FLUSH: add(&c->flushes, 1); break;
    case T_DISCARD: add(&c->discards, 1); break;
    case T_WRITE_ZEROES: add(&c->write_zeroes, 1); break;
    default: break;
  }
}

static void finish(struct queue *q, struct request *r) {
  uint32_t written = request_finish(r);
  q->blk->api->queue_push(q->vq, &r->chain, r->iov, written);
  count(&q->count, r);
  q->dirty = true;
  r->next = q->free;
  q->free = r;
}

static void carry_out(struct queue *q, struct request *r) {
  q->in_flight++;
  q->transfers += r->type <= T_OUT;
  if (q->uring) uring_add(&q->ring, r);
  else pool_add(q->blk->pool, r);
}

static void completed(struct queue *q, struct request *r, int64_t res) {
  q->in_flight--;
  q->transfers -= r->type <= T_OUT;
  if (request_step(r, res)) carry_out(q, r);
  else finish(q, r);
}

/* A thread of the pool. */
static void pool_done(struct request *r) {
  struct queue *q = r->owner;
  pthread_mutex_lock(&q->lock);
  r->next = q->done;
  q->done = r;
  bool first = !r->next;
  /* With the lock: once the list is seen to be empty the eventfd may be closed. */
  if (first) (void)!eventfd_write(q->wake_fd, 1);
  pthread_mutex_unlock(&q->lock);
}

static void reap(struct queue *q) {
  struct request *r;
  if (q->uring) {
    int64_t res;
    while ((r = uring_next(&q->ring, &res))) completed(q, r, res);
    return;
  }
  pthread_mutex_lock(&q->lock);
  r = q->done;
  q->done = NULL;
  pthread_mutex_unlock(&q->lock);
  while (r) {
    struct request *next = r->next;
    completed(q, r, r->res);
    r = next;
  }
}

/* May the request go on? If not it goes back to the ring until the timer rings. */
static bool within_limits(struct queue *q, const struct vmm_chain *chain) {
  struct blk *blk = q->blk;
  uint64_t bytes = chain->in_len + chain->out_len, overhead = 17; /* header and status */
  pthread_mutex_lock(&blk->lock);
  uint64_t ns = vmm_limiter_take(&blk->limiter, bytes > overhead ? bytes - overhead : 0, blk->api->now_ns());
  pthread_mutex_unlock(&blk->lock);
  if (!ns) return true;
  const uint64_t second = 1000000000;
  struct itimerspec when = {.it_value = {.tv_sec = (time_t)(ns / second), .tv_nsec = (long)(ns % second)}};
  timerfd_settime(q->timer_fd, 0, &when, NULL);
  q->throttled = true;
  return false;
}

static void accept_new(struct queue *q) {
  const struct vmm_api *api = q->blk->api;
  struct request *r;
  q->limits.writethrough =
      q->limits.features & F_CONFIG_WCE ? !q->blk->writeback : !(q->limits.features & F_FLUSH); /* §5.2.5.2 */
  for (unsigned n = 0; n < ACCEPT && (r = q->free) && !q->throttled; n++) {
    if (api->queue_pop(q->vq, &r->chain, r->iov, q->cap) <= 0) break;
    if (q->blk->limited && !within_limits(q, &r->chain)) {
      api->queue_unpop(q->vq, &r->chain);
      break;
    }
    q->free = r->next;
    if (request_begin(r, &q->limits)) carry_out(q, r);
    else finish(q, r);
  }
}

static void submit(struct queue *q) {
  struct request *r;
  if (!q->uring) return;
  if (!uring_submit(&q->ring) || q->in_flight > uring_waiting(&q->ring)) return;
  /* The kernel has no memory, and no completion will come after which to try again. */
  while ((r = uring_take_back(&q->ring))) {
    q->in_flight--;
    q->transfers -= r->type <= T_OUT;
    r->result = S_IOERR;
    finish(q, r);
  }
}

static void drained(struct queue *q) {
  q->finished = true;
  if (q->uring) uring_release(&q->ring);
  sem_post(&q->drained);
}

/* Whether to go on. If not, the next kick or completion will call again. */
static bool more(struct queue *q) {
  if (q->dirty || (q->uring && uring_ready(&q->ring))) return true;
  bool wants_kick = !q->stopping && !q->throttled && q->free && q->transfers < BUSY;
  if (wants_kick && q->blk->api->queue_wait(q->vq)) return true;
  if (!q->uring) return false;
  uring_quiet(&q->ring, false);
  return uring_ready(&q->ring);
}

static void run(struct queue *q) {
  const struct vmm_api *api = q->blk->api;
  if (q->finished) return;
  for (unsigned round = 0;; round++) {
    if (q->uring) uring_quiet(&q->ring, true);
    reap(q);
    if (!q->stopping) accept_new(q);
    if (q->dirty) {
      q->dirty = false;
      api->queue_flush(q->vq);
    }
    submit(q);
    if (!more(q)) break;
    if (round >= ROUNDS) {
      (void)!eventfd_write(q->wake_fd, 1);
      return;
    }
  }
  if (q->stopping && !q->in_flight) drained(q);
}

/* --- what wakes it, on its loop --- */

static void on_kick(void *opaque, vmm_queue *vq) {
  struct queue *q = opaque;
  if (q->uring && q->ring.disabled && uring_enable(&q->ring)) {
    q->blk->api->queue_fail(vq, "io_uring cannot be enabled");
    return;
  }
  run(q);
}

static void on_ring(void *opaque, int fd, uint32_t events) {
  (void)fd, (void)events;
  struct queue *q = opaque;
  run(q);
}

static void on_wake(void *opaque, int fd, uint32_t events) {
  (void)events;
  eventfd_t value;
  (void)!eventfd_read(fd, &value);
  run(opaque);
}

static void on_timer(void *opaque, int fd, uint32_t events) {
  (void)events;
  struct queue *q = opaque;
  uint64_t times;
  if (read(fd, &times, sizeof times) < 0) return;
  q->throttled = false;
  run(q);
}

/* --- life cycle --- */

static int make_requests(struct queue *q) {
  uint32_t n = q->blk->api->queue_size(q->vq);
  /* a few more pieces than descriptors: guest memory need not be in one piece here; and room for the segments */
  q->cap = (n < MAX_SEGMENTS ? MAX_SEGMENTS : n) + 8;
  size_t own = sizeof(struct request) + 2 * q->cap * sizeof(struct iovec);
  uint8_t *at = q->arena = calloc(n, own);
  if (!at) return -ENOMEM;
  for (uint32_t i = n; i--;) {
    struct request *r = (struct request *)(void *)(at + i * own);
    r->owner = q;
    r->iov = (struct iovec *)(void *)(r + 1);
    r->room = r->iov + q->cap;
    r->next = q->free;
    q->free = r;
  }
  return 0;
}

static int make_backend(struct queue *q) {
  struct blk *blk = q->blk;
  int err = blk->no_uring ? -EPERM : uring_open(&q->ring, blk->api->queue_size(q->vq), blk->disk.fd);
  q->uring = !err;
  if (q->uring) return blk->api->loop_add(q->loop, q->ring.event_fd, EPOLLIN | EPOLLET, on_ring, q);
  if (!blk->no_uring) {
    blk->api->log(blk->vm, 6, "virtio-blk: no io_uring here (%s): a thread pool instead", strerror(-err));
    blk->no_uring = true;
  }
  if (!blk->pool) blk->pool = pool_new(blk->disk.fd, pool_done);
  return blk->pool ? 0 : -ENOMEM;
}

static void clear(struct queue *q) {
  struct blk_counters kept = q->count;
  struct blk *blk = q->blk;
  *q = (struct queue){.blk = blk, .count = kept, .wake_fd = -1, .timer_fd = -1, .ring = {.fd = -1, .event_fd = -1}};
}

int blk_start(struct blk *blk, uint32_t index, void *queue) {
  if (index >= blk->n || blk->queues[index].vq) return -EINVAL;
  struct queue *q = &blk->queues[index];
  const struct vmm_api *api = blk->api;
  q->vq = queue;
  q->loop = api->queue_loop(q->vq);
  q->limits = (struct limits){.disk = &blk->disk, .features = api->queue_features(q->vq), .id = blk->id};
  sem_init(&q->drained, 0, 0);
  pthread_mutex_init(&q->lock, NULL);
  q->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  int err = q->wake_fd < 0 ? -errno : q->loop ? make_requests(q) : -EAGAIN;
  if (!err) err = api->loop_add(q->loop, q->wake_fd, EPOLLIN, on_wake, q);
  q->live = !err;
  if (!err) err = make_backend(q);
  if (!err && blk->limited) {
    q->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    err = q->timer_fd < 0 ? -errno : api->loop_add(q->loop, q->timer_fd, EPOLLIN, on_timer, q);
  }
  return err ? err : api->queue_handle(q->vq, on_kick, q);
}

static void drop_fd(struct queue *q, int fd) {
  if (fd >= 0) q->blk->api->loop_del(q->loop, fd);
}

void blk_stop(struct blk *blk) {
  for (uint32_t i = 0; i < blk->n; i++) {
    struct queue *q = &blk->queues[i];
    if (!q->vq) continue;
    q->stopping = true;
    (void)!eventfd_write(q->wake_fd, 1);
  }
  for (uint32_t i = 0; i < blk->n; i++) {
    struct queue *q = &blk->queues[i];
    if (!q->vq) continue;
    while (q->live && sem_wait(&q->drained) && errno == EINTR) continue;
    drop_fd(q, q->ring.event_fd), drop_fd(q, q->wake_fd), drop_fd(q, q->timer_fd);
    if (q->uring) uring_close(&q->ring);
    if (q->timer_fd >= 0) close(q->timer_fd);
    if (q->wake_fd >= 0) close(q->wake_fd);
    free(q->arena);
    sem_destroy(&q->drained);
    pthread_mutex_destroy(&q->lock);
    clear(q);
  }
}

bool blk_uring(const struct blk *blk) {
  return !blk->no_uring;
}

struct blk *blk_new(const void *api, void *vm, const struct blk_setup *setup, int *error) {
  *error = vmm_api_check(api, 1) ? -ENOTSUP : -ENOMEM;
  struct blk *blk = *error == -ENOTSUP ? NULL : calloc(1, sizeof *blk + setup->queues * sizeof(struct queue));
  if (!blk) return NULL;
  blk->api = api;
  blk->vm = vm;
  blk->disk.fd = setup->fd;
  blk->disk.readonly = setup->readonly;
  blk->disk.direct = setup->direct;
  blk->disk.sparse = setup->sparse;
  blk->no_uring = setup->no_uring;
  blk->writeback = true;
  memcpy(blk->id, setup->id, sizeof blk->id);
  blk->n = setup->queues;
  for (uint32_t i = 0; i < blk->n; i++) {
    blk->queues[i].blk = blk;
    clear(&blk->queues[i]);
  }
  uint64_t now = blk->api->now_ns();
  vmm_bucket_init(&blk->limiter.bytes, setup->bw[0], setup->bw[1], setup->bw[2], now);
  vmm_bucket_init(&blk->limiter.ops, setup->ops[0], setup->ops[1], setup->ops[2], now);
  blk->limited = vmm_limiter_on(&blk->limiter);
  pthread_mutex_init(&blk->lock, NULL);
  *error = disk_probe(&blk->disk);
  if (!*error) return blk;
  blk_free(blk);
  return NULL;
}

void blk_free(struct blk *blk) {
  if (!blk) return;
  blk_stop(blk);
  pool_free(blk->pool);
  pthread_mutex_destroy(&blk->lock);
  free(blk);
}

/* --- the rest --- */

void blk_get_info(const struct blk *blk, struct blk_info *info) {
  const struct disk *d = &blk->disk;
  *info = (struct blk_info){.capacity = d->capacity, .block = d->block, .physical = d->physical,
                            .alignment = d->alignment, .min_io = d->min_io, .opt_io = d->opt_io,
                            .granularity = d->granularity, .max_range = MAX_RANGE, .max_segments = MAX_SEGMENTS,
                            .is_device = d->is_device};
}

void blk_set_writeback(struct blk *blk, bool writeback) {
  bool before = blk->writeback;
  blk->writeback = writeback;
  if (before && !writeback) fdatasync(blk->disk.fd);
}

int blk_resize(struct blk *blk) {
  return disk_size(&blk->disk);
}

void blk_get_counters(const struct blk *blk, struct blk_counters *out) {
  memset(out, 0, sizeof *out);
  for (uint32_t i = 0; i < blk->n; i++) {
    const uint64_t *from = (const uint64_t *)&blk->queues[i].count;
    for (unsigned k = 0; k < sizeof *out / sizeof *from; k++)
      ((uint64_t *)out)[k] += __atomic_load_n(&from[k], __ATOMIC_RELAXED);
  }
}
