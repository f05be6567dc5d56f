/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Event loops: an epoll thread each. Handlers run with `running` held, so that
 * vmm_loop_del() from another thread, which marks the entry dead and then takes
 * that lock once, returns only when the handler neither runs nor will run again.
 * It waits with `gate` held, which the loop passes before each batch: mutexes are not
 * fair, and a loop that always has something to do would take `running` again at once.
 * Dead entries are freed by the loop itself after the batch that may still name them.
 */
#include "native.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct entry {
  struct entry *next;
  int fd;
  _Atomic bool dead;
  vmm_fd_fn fn;
  void *opaque;
};

struct vmm_loop {
  int epoll_fd, wake_fd;
  pthread_t thread;
  pthread_mutex_t gate;    /* held by who waits for `running`; taken before it */
  pthread_mutex_t running; /* held while handlers run */
  pthread_mutex_t lock;    /* the two lists */
  struct entry *live;
  _Atomic(struct entry *) dead;
  _Atomic bool stop;
};

static void free_list(struct entry *e) {
  for (struct entry *next; e; e = next) {
    next = e->next;
    free(e);
  }
}

static void *loop_main(void *arg) {
  vmm_loop *loop = arg;
  struct epoll_event ev[32];
  /*
   * Where a vCPU has this CPU, its first kick must not put us in its place: it would be answered alone, with an
   * interrupt of its own, and so would the next. A batch thread waits until the vCPU halts or its time is over
   * (sched(7)), and then finds all that has been asked for. On a CPU that is free it runs at once.
   */
  (void)pthread_setschedparam(pthread_self(), SCHED_BATCH, &(struct sched_param){.sched_priority = 0});
  while (!atomic_load(&loop->stop)) {
    int n = epoll_wait(loop->epoll_fd, ev, 32, -1);
    pthread_mutex_lock(&loop->gate);
    pthread_mutex_unlock(&loop->gate); /* whoever waits goes first; the loop never waits with it */
    pthread_mutex_lock(&loop->running);
    for (int i = 0; i < n; i++) {
      struct entry *e = ev[i].data.ptr;
      if (e && !atomic_load(&e->dead)) e->fn(e->opaque, e->fd, ev[i].events);
      if (!e) {
        eventfd_t v;
        (void)!eventfd_read(loop->wake_fd, &v);
      }
    }
    pthread_mutex_unlock(&loop->running);
    if (!atomic_load_explicit(&loop->dead, memory_order_relaxed)) continue;
    pthread_mutex_lock(&loop->lock);
    struct entry *dead = atomic_exchange(&loop->dead, NULL);
    pthread_mutex_unlock(&loop->lock);
    free_list(dead);
  }
  return NULL;
}

static vmm_loop *loop_new(unsigned index) {
  vmm_loop *loop = calloc(1, sizeof *loop);
  if (!loop) return NULL;
  loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  pthread_mutex_init(&loop->gate, NULL);
  pthread_mutex_init(&loop->running, NULL);
  pthread_mutex_init(&loop->lock, NULL);
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, 256 << 10);
  int err = loop->epoll_fd < 0 || loop->wake_fd < 0 ||
            epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &e) ||
            pthread_create(&loop->thread, &attr, loop_main, loop);
  pthread_attr_destroy(&attr);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  if (err) {
    if (loop->epoll_fd >= 0) close(loop->epoll_fd);
    if (loop->wake_fd >= 0) close(loop->wake_fd);
    free(loop);
    return NULL;
  }
  char name[16];
  snprintf(name, sizeof name, "loop%u", index % 1000);
  pthread_setname_np(loop->thread, name);
  return loop;
}

vmm_loop *vmm_loop_get(vmm_vm *vm, unsigned index) {
  if (index >= VMM_MAX_LOOPS) return NULL;
  pthread_mutex_lock(&vm->lock);
  if (!vm->loops[index]) vm->loops[index] = loop_new(index);
  vmm_loop *loop = vm->loops[index];
  pthread_mutex_unlock(&vm->lock);
  return loop;
}

static struct entry **find(vmm_loop *loop, int fd) {
  struct entry **at = &loop->live;
  while (*at && (*at)->fd != fd) at = &(*at)->next;
  return at;
}

int vmm_loop_add(vmm_loop *loop, int fd, uint32_t events, vmm_fd_fn fn, void *opaque) {
  struct entry *e = calloc(1, sizeof *e);
  if (!e) return -ENOMEM;
  e->fd = fd, e->fn = fn, e->opaque = opaque;
  struct epoll_event ev = {.events = events, .data.ptr = e};
  pthread_mutex_lock(&loop->lock);
  int err = epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
  if (err)
    free(e);
  else
    e->next = loop->live, loop->live = e;
  pthread_mutex_unlock(&loop->lock);
  return err;
}

int vmm_loop_mod(vmm_loop *loop, int fd, uint32_t events) {
  pthread_mutex_lock(&loop->lock);
  struct entry *e = *find(loop, fd);
  struct epoll_event ev = {.events = events, .data.ptr = e};
  int err = !e ? -ENOENT : epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, fd, &ev) ? -errno : 0;
  pthread_mutex_unlock(&loop->lock);
  return err;
}

int vmm_loop_del(vmm_loop *loop, int fd) {
  pthread_mutex_lock(&loop->lock);
  struct entry **at = find(loop, fd), *e = *at;
  if (e) {
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    *at = e->next;
    atomic_store(&e->dead, true);
    e->next = loop->dead, loop->dead = e;
  }
  pthread_mutex_unlock(&loop->lock);
  /* Also where there is none: the handler may have removed itself, and still run. */
  if (!pthread_equal(pthread_self(), loop->thread)) {
    pthread_mutex_lock(&loop->gate);
    pthread_mutex_lock(&loop->running);
    pthread_mutex_unlock(&loop->running);
    pthread_mutex_unlock(&loop->gate);
  }
  return e ? 0 : -ENOENT;
}

void vmm_loops_free(vmm_vm *vm) {
  for (unsigned i = 0; i < VMM_MAX_LOOPS; i++) {
    vmm_loop *loop = vm->loops[i];
    if (!loop) continue;
    vm->loops[i] = NULL;
    atomic_store(&loop->stop, true);
    (void)!eventfd_write(loop->wake_fd, 1);
    pthread_join(loop->thread, NULL);
    close(loop->epoll_fd);
    close(loop->wake_fd);
    free_list(loop->live);
    free_list(loop->dead);
    pthread_mutex_destroy(&loop->gate);
    pthread_mutex_destroy(&loop->running);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
  }
}
