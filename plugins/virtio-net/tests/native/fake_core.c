/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_core.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

uint64_t fake_now;
unsigned fake_logged;

static struct entry {
  int fd;
  vmm_fd_fn fn;
  void *opaque;
  unsigned serial;
} entries[16];
static unsigned serial;
static int epoll = -1;

static struct {
  char name[16];
  uint64_t value;
} counters[8];

/* --- loop --- */

static struct entry *find(int fd) {
  for (unsigned i = 0; i < 16; i++)
    if (entries[i].fn && entries[i].fd == fd) return &entries[i];
  return NULL;
}

static int loop_add(vmm_loop *loop, int fd, uint32_t events, vmm_fd_fn fn, void *opaque) {
  (void)loop;
  if (epoll < 0) epoll = epoll_create1(EPOLL_CLOEXEC);
  CHECK(!find(fd));
  struct entry *e = entries;
  while (e->fn) CHECK(++e < entries + 16);
  *e = (struct entry){fd, fn, opaque, ++serial};
  struct epoll_event ev = {.events = events, .data.u64 = (uint64_t)e->serial << 32 | (uint32_t)fd};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev)) {
    e->fn = NULL;
    return -errno;
  }
  return 0;
}

static int loop_mod(vmm_loop *loop, int fd, uint32_t events) {
  (void)loop;
  struct entry *e = find(fd);
  if (!e) return -ENOENT;
  struct epoll_event ev = {.events = events, .data.u64 = (uint64_t)e->serial << 32 | (uint32_t)fd};
  return epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &ev) ? -errno : 0;
}

static int loop_del(vmm_loop *loop, int fd) {
  (void)loop;
  struct entry *e = find(fd);
  if (!e) return -ENOENT;
  e->fn = NULL;
  epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
  return 0;
}

unsigned fake_run_some(int ms, unsigned most) {
  unsigned done = 0;
  struct epoll_event ev[8];
  if (epoll < 0) return 0;
  while (done < most) {
    unsigned left = most - done;
    int n = epoll_wait(epoll, ev, left < 8 ? (int)left : 8, ms);
    if (n <= 0) break;
    for (int i = 0; i < n; i++) {
      struct entry *e = find((int)(uint32_t)ev[i].data.u64);
      if (e && e->serial == ev[i].data.u64 >> 32) e->fn(e->opaque, e->fd, ev[i].events);
      done++;
    }
  }
  return done;
}

bool fake_run(int ms) {
  unsigned n = fake_run_some(ms, 20000);
  CHECK(n < 20000); /* else it runs hot */
  return n > 0;
}

unsigned fake_watched(void) {
  unsigned n = 0;
  for (unsigned i = 0; i < 16; i++) n += !!entries[i].fn;
  return n;
}

/* --- queues --- */

void fake_reset(struct vmm_queue *q, uint32_t size, uint64_t features) {
  memset(q, 0, sizeof *q);
  q->size = size, q->features = features, q->wants_kick = true;
}

void fake_free(struct vmm_queue *q) {
  for (uint32_t i = 0; i < q->added; i++) {
    for (uint32_t n = 0; n < q->posted[i].n_out + q->posted[i].n_in; n++) free(q->posted[i].iov[n].iov_base);
    free(q->posted[i].iov);
  }
  q->added = 0;
}

uint32_t fake_add(struct vmm_queue *q, uint32_t n_out, uint32_t n_in, const uint32_t *sizes) {
  CHECK(q->added < FAKE_POSTED);
  struct posted *p = &q->posted[q->added];
  p->iov = calloc(n_out + n_in + 1, sizeof *p->iov);
  p->n_out = n_out, p->n_in = n_in;
  for (uint32_t i = 0; i < n_out + n_in; i++) p->iov[i] = (struct iovec){calloc(1, sizes[i] ? sizes[i] : 1), sizes[i]};
  return q->added++;
}

uint32_t fake_add_in(struct vmm_queue *q, uint32_t size) {
  return fake_add(q, 0, 1, &size);
}

uint32_t fake_add_frame(struct vmm_queue *q, const void *frame, uint32_t len) {
  uint32_t size = len + 12, n = fake_add(q, 1, 0, &size);
  memcpy((uint8_t *)q->posted[n].iov[0].iov_base + 12, frame, len);
  return n;
}

static int pop(vmm_queue *q, struct vmm_chain *chain, struct iovec *iov, uint32_t cap) {
  if (q->broken) return -EPROTO;
  if (q->popped == q->added) return 0;
  struct posted *p = &q->posted[q->popped];
  if (p->n_out + p->n_in > cap) {
    q->broken = true;
    return -EPROTO;
  }
  *chain = (struct vmm_chain){.id = (uint16_t)q->popped, .slots = 1, .n_out = p->n_out, .n_in = p->n_in};
  for (uint32_t i = 0; i < p->n_out + p->n_in; i++) {
    iov[i] = p->iov[i];
    *(i < p->n_out ? &chain->out_len : &chain->in_len) += p->iov[i].iov_len;
  }
  q->popped++;
  return 1;
}

static void unpop(vmm_queue *q, const struct vmm_chain *chain) {
  CHECK(q->popped && chain->id == q->popped - 1);
  q->popped--;
}

static void push(vmm_queue *q, const struct vmm_chain *chain, const struct iovec *iov, uint32_t written) {
  (void)iov;
  struct posted *p = &q->posted[chain->id];
  CHECK(chain->id < q->popped && !p->used && written <= chain->in_len);
  p->used = true;
  p->written = written;
  q->order[q->used++] = chain->id;
}

static int flush(vmm_queue *q) {
  int any = q->shown != q->used;
  q->shown = q->used;
  q->flushes++;
  return any;
}

static int wait_(vmm_queue *q) {
  q->wants_kick = true;
  return !q->broken && q->popped != q->added;
}

static void quiet(vmm_queue *q) {
  q->wants_kick = false;
}

static void fail(vmm_queue *q, const char *why) {
  CHECK(why && *why);
  q->failures++;
}

static uint32_t size(vmm_queue *q) {
  return q->size;
}

static uint64_t features(vmm_queue *q) {
  return q->features;
}

static vmm_loop *queue_loop(vmm_queue *q) {
  return (vmm_loop *)(void *)q;
}

static int handle(vmm_queue *q, vmm_queue_fn fn, void *opaque) {
  q->fn = fn, q->opaque = opaque;
  fn(opaque, q);
  return 0;
}

void fake_kick(struct vmm_queue *q) {
  if (q->wants_kick && q->fn) q->fn(q->opaque, q);
}

void fake_quiesce(struct vmm_queue *q) {
  q->fn = NULL;
}

/* --- the rest --- */

static void log_(vmm_vm *vm, int level, const char *fmt, ...) {
  char line[200];
  va_list args;
  (void)vm, (void)level;
  va_start(args, fmt);
  CHECK(vsnprintf(line, sizeof line, fmt, args) < (int)sizeof line);
  va_end(args);
  fake_logged++;
}

static uint64_t now_ns(void) {
  struct timespec t;
  if (fake_now) return fake_now;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t *counter(vmm_vm *vm, const char *device, const char *name) {
  (void)vm, (void)device;
  for (unsigned i = 0; i < 8; i++) {
    if (!counters[i].name[0]) snprintf(counters[i].name, sizeof counters[i].name, "%s", name);
    if (!strcmp(counters[i].name, name)) return &counters[i].value;
  }
  return NULL;
}

uint64_t fake_counter(const char *name) {
  return *counter(NULL, NULL, name);
}

const struct vmm_api fake_api = {
  .magic = VMM_API_MAGIC, .major = VMM_API_MAJOR, .minor = VMM_API_MINOR, .size = sizeof fake_api,
  .loop_add = loop_add, .loop_mod = loop_mod, .loop_del = loop_del, .log = log_, .now_ns = now_ns,
  .queue_pop = pop, .queue_unpop = unpop, .queue_push = push, .queue_flush = flush, .queue_wait = wait_,
  .queue_quiet = quiet, .queue_fail = fail, .queue_size = size, .queue_features = features,
  .queue_loop = queue_loop, .queue_handle = handle, .counter = counter,
};
