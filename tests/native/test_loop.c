/* SPDX-License-Identifier: Apache-2.0 */
/* Event loops, changed from other threads and from their own handlers. */
#include "harness.h"

#include <sys/epoll.h>

struct counter {
  vmm_loop *loop;
  int fd, other;
  _Atomic unsigned n;
  sem_t ran;
  _Atomic bool inside;
  sem_t leave;
};

static void counter_init(struct counter *c, vmm_loop *loop) {
  *c = (struct counter){.loop = loop, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .other = -1};
  CHECK(c->fd >= 0);
  sem_init(&c->ran, 0, 0);
  sem_init(&c->leave, 0, 0);
}

static void down(sem_t *s) {
  while (sem_wait(s)) CHECK(errno == EINTR);
}

static void count(void *opaque, int fd, uint32_t events) {
  struct counter *c = opaque;
  eventfd_t v;
  CHECK(fd == c->fd && events & EPOLLIN);
  (void)!eventfd_read(fd, &v);
  c->n++;
  sem_post(&c->ran);
}

/* Returns once the loop has come round. */
static void round_trip(vmm_loop *loop) {
  struct counter c;
  counter_init(&c, loop);
  EQ(vmm_loop_add(loop, c.fd, EPOLLIN, count, &c), 0);
  CHECK(!eventfd_write(c.fd, 1));
  down(&c.ran);
  EQ(vmm_loop_del(loop, c.fd), 0);
  close(c.fd);
}

TEST(loop_add_mod_del) {
  vmm_vm *vm = fake_vm();
  vmm_loop *loop = vmm_loop_get(vm, 0);
  CHECK(loop && vmm_loop_get(vm, 0) == loop && vmm_loop_get(vm, 1) != loop);
  CHECK(!vmm_loop_get(vm, VMM_MAX_LOOPS));
  struct counter c;
  counter_init(&c, loop);
  EQ(vmm_loop_add(loop, -1, EPOLLIN, count, &c), -EBADF);
  EQ(vmm_loop_mod(loop, c.fd, EPOLLIN), -ENOENT);
  EQ(vmm_loop_del(loop, c.fd), -ENOENT);
  EQ(vmm_loop_add(loop, c.fd, 0, count, &c), 0);
  EQ(vmm_loop_add(loop, c.fd, 0, count, &c), -EEXIST);
  CHECK(!eventfd_write(c.fd, 1));
  round_trip(loop);
  EQ(c.n, 0); /* asked for nothing */
  EQ(vmm_loop_mod(loop, c.fd, EPOLLIN), 0);
  down(&c.ran);
  EQ(vmm_loop_del(loop, c.fd), 0);
  CHECK(!eventfd_write(c.fd, 1));
  round_trip(loop);
  EQ(c.n, 1);
  EQ(vmm_loop_del(loop, c.fd), -ENOENT);
  close(c.fd);
  fake_vm_end(vm);
}

static void slow(void *opaque, int fd, uint32_t events) {
  struct counter *c = opaque;
  (void)fd, (void)events;
  c->inside = true;
  sem_post(&c->ran);
  down(&c->leave);
  c->inside = false;
}

static void *deleter(void *opaque) {
  struct counter *c = opaque;
  EQ(vmm_loop_del(c->loop, c->fd), 0);
  EQ(c->inside, false);
  return NULL;
}

TEST(loop_del_waits_for_the_handler) {
  vmm_vm *vm = fake_vm();
  vmm_loop *loop = vmm_loop_get(vm, 0);
  for (unsigned i = 0; i < 50; i++) {
    struct counter c;
    counter_init(&c, loop);
    EQ(vmm_loop_add(loop, c.fd, EPOLLIN, slow, &c), 0);
    CHECK(!eventfd_write(c.fd, 1));
    down(&c.ran);
    pthread_t t;
    pthread_create(&t, NULL, deleter, &c);
    while (vmm_loop_mod(loop, c.fd, EPOLLIN) != -ENOENT) sched_yield(); /* the deletion is on its way */
    EQ(c.inside, true);
    sem_post(&c.leave);
    pthread_join(t, NULL);
    close(c.fd);
  }
  fake_vm_end(vm);
}

static void leave_then_slow(void *opaque, int fd, uint32_t events) {
  struct counter *c = opaque;
  EQ(vmm_loop_del(c->loop, fd), 0);
  slow(opaque, fd, events);
}

static void *late_deleter(void *opaque) {
  struct counter *c = opaque;
  sem_post(&c->ran);
  EQ(vmm_loop_del(c->loop, c->fd), -ENOENT);
  EQ(c->inside, false);
  return NULL;
}

TEST(loop_del_waits_for_a_handler_that_has_removed_itself) {
  vmm_vm *vm = fake_vm();
  vmm_loop *loop = vmm_loop_get(vm, 0);
  for (unsigned i = 0; i < 50; i++) {
    struct counter c;
    counter_init(&c, loop);
    EQ(vmm_loop_add(loop, c.fd, EPOLLIN, leave_then_slow, &c), 0);
    CHECK(!eventfd_write(c.fd, 1));
    down(&c.ran);
    pthread_t t;
    pthread_create(&t, NULL, late_deleter, &c);
    down(&c.ran);
    usleep(100); /* without the wait it would see the handler inside */
    sem_post(&c.leave);
    pthread_join(t, NULL);
    close(c.fd);
  }
  fake_vm_end(vm);
}

static void delete_self_and_other(void *opaque, int fd, uint32_t events) {
  struct counter *c = opaque;
  (void)events;
  c->n++;
  EQ(vmm_loop_del(c->loop, fd), 0); /* does not wait for itself */
  EQ(vmm_loop_del(c->loop, c->other), 0);
  sem_post(&c->ran);
}

TEST(loop_handler_deletes_itself_and_another) {
  vmm_vm *vm = fake_vm();
  vmm_loop *loop = vmm_loop_get(vm, 0);
  for (unsigned i = 0; i < 100; i++) {
    /* Both are ready in one batch: whichever runs first ends the other. */
    struct counter gate, a, b;
    counter_init(&gate, loop);
    counter_init(&a, loop);
    counter_init(&b, loop);
    a.other = b.fd;
    b.other = a.fd;
    EQ(vmm_loop_add(loop, gate.fd, EPOLLIN, slow, &gate), 0);
    CHECK(!eventfd_write(gate.fd, 1));
    down(&gate.ran);
    EQ(vmm_loop_add(loop, a.fd, EPOLLIN, delete_self_and_other, &a), 0);
    EQ(vmm_loop_add(loop, b.fd, EPOLLIN, delete_self_and_other, &b), 0);
    CHECK(!eventfd_write(a.fd, 1) && !eventfd_write(b.fd, 1));
    eventfd_t v;
    CHECK(!eventfd_read(gate.fd, &v));
    sem_post(&gate.leave);
    while (!a.n && !b.n) round_trip(loop);
    round_trip(loop);
    EQ(a.n + b.n, 1);
    EQ(vmm_loop_del(loop, gate.fd), 0);
    close(gate.fd), close(a.fd), close(b.fd);
  }
  fake_vm_end(vm);
}

/* Its own event wakes it again, and keeps the loop's lock for a while: a guest that refills a ring does that. */
static void rearm(void *opaque, int fd, uint32_t events) {
  struct counter *c = opaque;
  eventfd_t v;
  (void)events;
  CHECK(!eventfd_read(fd, &v));
  usleep(2000);
  c->n++;
  CHECK(!eventfd_write(fd, 1));
}

TEST(loop_del_gets_in_between_busy_batches) {
  vmm_vm *vm = fake_vm();
  vmm_loop *loop = vmm_loop_get(vm, 0);
  struct counter busy;
  counter_init(&busy, loop);
  EQ(vmm_loop_add(loop, busy.fd, EPOLLIN, rearm, &busy), 0);
  CHECK(!eventfd_write(busy.fd, 1));
  for (unsigned i = 0; i < 20; i++) {
    struct counter other;
    counter_init(&other, loop);
    EQ(vmm_loop_add(loop, other.fd, EPOLLIN, count, &other), 0);
    while (busy.n < 2 * i) usleep(100);
    unsigned before = busy.n;
    EQ(vmm_loop_del(loop, other.fd), 0);
    CHECK(busy.n - before < 500); /* 1 s, where the host has no time for us; without a gate it is luck */
    close(other.fd);
  }
  EQ(vmm_loop_del(loop, busy.fd), 0);
  unsigned n = busy.n;
  usleep(5000);
  EQ(busy.n, n);
  close(busy.fd);
  fake_vm_end(vm);
}

struct mortal {
  uint32_t alive;
};

static void mortal_handler(void *opaque, int fd, uint32_t events) {
  (void)fd, (void)events;
  CHECK(((struct mortal *)opaque)->alive == 0xa11fe); /* the fd stays readable: it runs all the time */
}

static void *churn(void *opaque) {
  vmm_loop *loop = opaque;
  for (unsigned i = 0; i < 300; i++) {
    struct mortal *m = malloc(sizeof *m);
    m->alive = 0xa11fe;
    int fd = eventfd(1, EFD_CLOEXEC);
    EQ(vmm_loop_add(loop, fd, i & 1 ? EPOLLIN : 0, mortal_handler, m), 0);
    EQ(vmm_loop_mod(loop, fd, EPOLLIN), 0);
    if (i % 3) sched_yield();
    EQ(vmm_loop_del(loop, fd), 0);
    close(fd);
    m->alive = 0;
    free(m);
  }
  return NULL;
}

TEST(loop_is_changed_from_many_threads) {
  vmm_vm *vm = fake_vm();
  pthread_t t[4];
  for (unsigned i = 0; i < 4; i++) pthread_create(&t[i], NULL, churn, vmm_loop_get(vm, i / 2));
  for (unsigned i = 0; i < 4; i++) pthread_join(t[i], NULL);
  fake_vm_end(vm);
}

TEST(loop_ends_with_handlers_left) {
  vmm_vm *vm = fake_vm();
  struct mortal m = {0xa11fe};
  int fd = eventfd(1, EFD_CLOEXEC);
  EQ(vmm_loop_add(vmm_loop_get(vm, 3), fd, EPOLLIN, mortal_handler, &m), 0);
  fake_vm_end(vm);
  close(fd);
}
