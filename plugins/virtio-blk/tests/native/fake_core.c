/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_core.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* --- the loop --- */

struct vmm_loop {
  int epoll_fd, wake_fd;
  pthread_t thread;
  pthread_mutex_t running, lock;
  struct {
    int fd;
    vmm_fd_fn fn;
    void *opaque;
  } entry[FAKE_ENTRIES];
  bool end;
};

static struct vmm_loop loop = {.running = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER};

static void *loop_main(void *arg) {
  (void)arg;
  for (;;) {
    struct epoll_event ev;
    if (epoll_wait(loop.epoll_fd, &ev, 1, -1) != 1) continue;
    pthread_mutex_lock(&loop.running);
    pthread_mutex_lock(&loop.lock);
    vmm_fd_fn fn = NULL;
    void *opaque = NULL;
    for (int i = 0; i < FAKE_ENTRIES; i++)
      if (loop.entry[i].fn && loop.entry[i].fd == ev.data.fd) fn = loop.entry[i].fn, opaque = loop.entry[i].opaque;
    bool end = loop.end;
    pthread_mutex_unlock(&loop.lock);
    if (fn) fn(opaque, ev.data.fd, ev.events);
    pthread_mutex_unlock(&loop.running);
    if (end) return NULL;
  }
}

void fake_start(void) {
  loop.epoll_fd = epoll_create1(0);
  loop.wake_fd = eventfd(0, 0);
  loop.end = false;
  struct epoll_event ev = {.events = EPOLLIN, .data.fd = loop.wake_fd};
  epoll_ctl(loop.epoll_fd, EPOLL_CTL_ADD, loop.wake_fd, &ev);
  CHECK(!pthread_create(&loop.thread, NULL, loop_main, NULL));
}

void fake_stop(void) {
  pthread_mutex_lock(&loop.lock);
  loop.end = true;
  for (int i = 0; i < FAKE_ENTRIES; i++) CHECK(!loop.entry[i].fn);
  pthread_mutex_unlock(&loop.lock);
  CHECK(!eventfd_write(loop.wake_fd, 1));
  pthread_join(loop.thread, NULL);
  close(loop.epoll_fd), close(loop.wake_fd);
}

static int loop_add(vmm_loop *l, int fd, uint32_t events, vmm_fd_fn fn, void *opaque) {
  struct epoll_event ev = {.events = events, .data.fd = fd};
  pthread_mutex_lock(&l->lock);
  int i = 0;
  while (l->entry[i].fn) i++;
  CHECK(i < FAKE_ENTRIES);
  l->entry[i].fd = fd, l->entry[i].fn = fn, l->entry[i].opaque = opaque;
  pthread_mutex_unlock(&l->lock);
  return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static int loop_del(vmm_loop *l, int fd) {
  CHECK(!pthread_equal(pthread_self(), l->thread));
  pthread_mutex_lock(&l->lock);
  for (int i = 0; i < FAKE_ENTRIES; i++)
    if (l->entry[i].fn && l->entry[i].fd == fd) l->entry[i].fn = NULL;
  pthread_mutex_unlock(&l->lock);
  epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
  pthread_mutex_lock(&l->running);
  pthread_mutex_unlock(&l->running);
  return 0;
}

/* --- a queue --- */

static int pop(vmm_queue *q, struct vmm_chain *chain, struct iovec *iov, uint32_t cap) {
  pthread_mutex_lock(&q->lock);
  int there = q->popped < q->posted;
  if (there) {
    struct fake_request *r = q->request[q->popped];
    *chain = (struct vmm_chain){.id = (uint16_t)q->popped, .slots = 1, .n_out = r->n_out, .n_in = r->n_in};
    CHECK(r->n_out + r->n_in <= cap);
    memcpy(iov, r->iov, (r->n_out + r->n_in) * sizeof *iov);
    for (uint32_t i = 0; i < r->n_out + r->n_in; i++)
      *(i < r->n_out ? &chain->out_len : &chain->in_len) += r->iov[i].iov_len;
    q->popped++;
    if (q->refills) {
      q->refills--;
      struct fake_request *same = q->request[q->posted++] = malloc(sizeof *same);
      CHECK(same && q->posted <= FAKE_REQUESTS);
      *same = *r;
    }
  }
  pthread_mutex_unlock(&q->lock);
  return there;
}

static void unpop(vmm_queue *q, const struct vmm_chain *chain) {
  pthread_mutex_lock(&q->lock);
  q->popped--;
  EQ(chain->id, q->popped);
  pthread_mutex_unlock(&q->lock);
}

static void push(vmm_queue *q, const struct vmm_chain *chain, const struct iovec *iov, uint32_t written) {
  pthread_mutex_lock(&q->lock);
  struct fake_request *r = q->request[chain->id];
  CHECK(!r->done);
  EQ(memcmp(iov, r->iov, (r->n_out + r->n_in) * sizeof *iov), 0); /* pop's, untouched */
  CHECK(written <= chain->in_len);
  r->written = written;
  r->done = true;
  q->pushed++;
  pthread_mutex_unlock(&q->lock);
}

static int flush(vmm_queue *q) {
  pthread_mutex_lock(&q->lock);
  q->flushes++;
  q->flushed = q->pushed;
  pthread_cond_broadcast(&q->changed);
  pthread_mutex_unlock(&q->lock);
  return 1;
}

static int wait_kick(vmm_queue *q) {
  pthread_mutex_lock(&q->lock);
  int there = q->popped < q->posted;
  q->want_kick = !there;
  pthread_mutex_unlock(&q->lock);
  return there;
}

static void on_kick(void *opaque, int fd, uint32_t events) {
  (void)events;
  vmm_queue *q = opaque;
  eventfd_t value;
  if (eventfd_read(fd, &value)) return;
  q->fn(q->opaque, q);
}

static int handle(vmm_queue *q, vmm_queue_fn fn, void *opaque) {
  q->fn = fn, q->opaque = opaque;
  CHECK(!eventfd_write(q->kick_fd, 1));
  return loop_add(&loop, q->kick_fd, EPOLLIN, on_kick, q);
}

static void quiet(vmm_queue *q) {
  (void)q;
}

static void fail(vmm_queue *q, const char *why) {
  snprintf(q->failed, sizeof q->failed, "%s", why);
}

static uint32_t size(vmm_queue *q) {
  return q->size;
}

static uint64_t features(vmm_queue *q) {
  return q->features;
}

static vmm_loop *loop_of(vmm_queue *q) {
  (void)q;
  return &loop;
}

void fake_queue_init(struct vmm_queue *q, uint32_t n, uint64_t bits) {
  memset(q, 0, sizeof *q);
  pthread_mutex_init(&q->lock, NULL);
  pthread_cond_init(&q->changed, NULL);
  q->size = n;
  q->features = bits;
  q->kick_fd = eventfd(0, EFD_NONBLOCK);
}

void fake_queue_halt(struct vmm_queue *q) {
  loop_del(&loop, q->kick_fd);
}

void fake_queue_free(struct vmm_queue *q) {
  for (uint32_t i = 0; i < q->posted; i++) free(q->request[i]);
  close(q->kick_fd);
  pthread_mutex_destroy(&q->lock);
  pthread_cond_destroy(&q->changed);
}

struct fake_request *fake_post(struct vmm_queue *q, const struct iovec *out, uint32_t n_out, const struct iovec *in,
                               uint32_t n_in) {
  struct fake_request *r = calloc(1, sizeof *r);
  CHECK(r && n_out + n_in <= FAKE_PIECES);
  if (n_out) memcpy(r->iov, out, n_out * sizeof *out);
  if (n_in) memcpy(r->iov + n_out, in, n_in * sizeof *in);
  r->n_out = n_out, r->n_in = n_in;
  pthread_mutex_lock(&q->lock);
  CHECK(q->posted < FAKE_REQUESTS);
  q->request[q->posted++] = r;
  bool kick = q->want_kick;
  q->want_kick = false;
  pthread_mutex_unlock(&q->lock);
  if (kick) CHECK(!eventfd_write(q->kick_fd, 1));
  return r;
}

void fake_wait(struct vmm_queue *q, const struct fake_request *r) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += 20;
  pthread_mutex_lock(&q->lock);
  while (!(r->done && q->flushed == q->pushed)) CHECK(!pthread_cond_timedwait(&q->changed, &q->lock, &until));
  pthread_mutex_unlock(&q->lock);
}

/* --- the table --- */

static void say(vmm_vm *vm, int level, const char *fmt, ...) {
  (void)vm, (void)level, (void)fmt;
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

const struct vmm_api fake_api = {
    .magic = VMM_API_MAGIC, .major = VMM_API_MAJOR, .minor = VMM_API_MINOR, .size = sizeof fake_api,
    .loop_add = loop_add, .loop_del = loop_del, .log = say, .now_ns = now,
    .queue_pop = pop, .queue_unpop = unpop, .queue_push = push, .queue_flush = flush, .queue_wait = wait_kick,
    .queue_quiet = quiet, .queue_fail = fail, .queue_size = size, .queue_features = features,
    .queue_loop = loop_of, .queue_handle = handle,
};
