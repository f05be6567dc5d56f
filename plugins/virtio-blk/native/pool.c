/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = 4, STACK = 256 << 10 };

struct pool {
  int fd;
  void (*done)(struct request *r);
  pthread_mutex_t lock;
  pthread_cond_t work;
  struct request *first, **last;
  bool end;
  unsigned n;
  pthread_t threads[THREADS];
};

static int carry_out(int fd, const struct io *io) {
  ssize_t n = -1;
  switch (io->kind) {
    case IO_READ: n = preadv2(fd, io->iov, (int)io->n, (off_t)io->offset, io->flags); break;
    case IO_WRITE: n = pwritev2(fd, io->iov, (int)io->n, (off_t)io->offset, io->flags); break;
    case IO_SYNC: n = fdatasync(fd); break;
    case IO_ALLOCATE: n = fallocate(fd, io->flags, (off_t)io->offset, (off_t)io->len); break;
  }
  return n < 0 ? -errno : (int)n; /* Linux moves less than 2 GiB at a time */
}

static void *pool_main(void *arg) {
  struct pool *p = arg;
  pthread_mutex_lock(&p->lock);
  for (;;) {
    while (!p->first && !p->end) pthread_cond_wait(&p->work, &p->lock);
    struct request *r = p->first;
    if (!r) break;
    p->first = r->next;
    if (!p->first) p->last = &p->first;
    pthread_mutex_unlock(&p->lock);
    r->res = carry_out(p->fd, &r->io);
    p->done(r);
    pthread_mutex_lock(&p->lock);
  }
  pthread_mutex_unlock(&p->lock);
  return NULL;
}

struct pool *pool_new(int fd, void (*done)(struct request *r)) {
  struct pool *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  p->fd = fd;
  p->done = done;
  p->last = &p->first;
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->work, NULL);
  sigset_t all, old;
  sigfillset(&all);
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, STACK);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  while (p->n < THREADS && !pthread_create(&p->threads[p->n], &attr, pool_main, p))
    pthread_setname_np(p->threads[p->n++], "blk");
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_attr_destroy(&attr);
  if (p->n) return p;
  pool_free(p);
  return NULL;
}

void pool_add(struct pool *p, struct request *r) {
  r->next = NULL;
  pthread_mutex_lock(&p->lock);
  *p->last = r;
  p->last = &r->next;
  pthread_mutex_unlock(&p->lock);
  pthread_cond_signal(&p->work);
}

void pool_free(struct pool *p) {
  if (!p) return;
  pthread_mutex_lock(&p->lock);
  p->end = true;
  pthread_mutex_unlock(&p->lock);
  pthread_cond_broadcast(&p->work);
  while (p->n) pthread_join(p->threads[--p->n], NULL);
  pthread_mutex_destroy(&p->lock);
  pthread_cond_destroy(&p->work);
  free(p);
}
