/* SPDX-License-Identifier: Apache-2.0 */
/* Queues that the core serves for a device, request by request, in turns with others on the loop. */
#include "virtio_guest.h"

struct server {
  struct vdev *d;
  _Atomic unsigned calls;
  _Atomic int64_t answer;
  _Atomic bool refill; /* the driver has the next request there before this one is answered */
  bool again;
  struct vmm_chain kept;
};

static int64_t answer(void *opaque, vmm_queue *q, struct vmm_chain *chain, struct iovec *iov) {
  struct server *s = opaque;
  CHECK(chain->n_out + chain->n_in == 2 && iov[0].iov_len == 1);
  if (s->refill) v_avail(s->d, q->index, 0, vmm_queue_size(q));
  s->kept = *chain;
  s->calls++;
  int64_t is = s->answer;
  if (s->again) vmm_queue_again(q);
  return is;
}

static void make(struct vdev *d, unsigned i, unsigned n) {
  v_desc(d, i, 0, V_DATA + 0x100 * i, 1, 1, 1);
  v_desc(d, i, 1, V_DATA + 0x100 * i + 1, 1, 2, 0);
  while (n--) v_avail(d, i, 0, vmm_queue_size(vmm_virtio_queue(d->v, i)));
}

static struct server *begin(unsigned queues) {
  struct server *s = calloc(1, sizeof *s);
  CHECK(s);
  s->d = v_new();
  s->d->no_handlers = true;
  up(s->d, V1, queues);
  return s;
}

static void end(struct server *s) {
  v_end(s->d);
  free(s);
}

static vmm_queue *of(struct server *s, unsigned i) { return vmm_virtio_queue(s->d->v, i); }

static uint64_t counted(struct server *s, unsigned i, unsigned what) {
  uint64_t all[VMM_COUNTS];
  vmm_queue_counts(of(s, i), all);
  return all[what];
}

TEST(serve_gives_back_and_goes_on) {
  struct server *s = begin(5);
  CHECK(vmm_queue_serve(of(s, 1), answer, s) < 0); /* not set up */
  EQ(vmm_queue_serve(of(s, 2), answer, s), 0);
  CHECK(vmm_queue_serve(of(s, 2), answer, s) < 0);
  s->answer = 1;
  AWAIT(counted(s, 2, VMM_COUNT_KICKS) == 1); /* the look at the start */
  make(s->d, 2, 200);
  kick(s->d, 2);
  AWAIT(v_used(s->d, 2) == 200);
  EQ(s->calls, 200);
  EQ(counted(s, 2, VMM_COUNT_IN), 200);
  EQ(counted(s, 2, VMM_COUNT_KICKS), 2); /* the turns in between are nobody's kicks */
  CHECK_SLEEPS();
  end(s);
}

TEST(serve_leaves_the_loop_to_others) {
  struct server *s = begin(5);
  s->refill = true;
  make(s->d, 0, 1);
  for (unsigned round = 0; round < 20; round++) {
    EQ(vmm_queue_serve(of(s, 0), answer, s), 0);
    EQ(vmm_queue_handle(of(s, 2), v_echo, s->d), 0); /* on the same loop */
    CHECK(vmm_queue_loop(of(s, 0)) == vmm_queue_loop(of(s, 2)));
    unsigned calls = s->calls;
    AWAIT(s->calls > calls + 100);
    echo(s->d, 2);
    v_halt(s->d); /* comes back, though there are always more */
    calls = s->calls;
    poll(NULL, 0, 1);
    EQ(s->calls, calls);
    v_go(s->d);
  }
  s->refill = false;
  EQ(vmm_queue_serve(of(s, 0), answer, s), 0);
  AWAIT(v_used(s->d, 0) == s->d->avail[0]); /* nothing is left lying */
  end(s);
}

TEST(serve_later_and_kept) {
  struct server *s = begin(4);
  s->answer = VMM_REQUEST_LATER;
  make(s->d, 2, 3);
  EQ(vmm_queue_serve(of(s, 2), answer, s), 0);
  AWAIT(s->calls == 1);
  for (unsigned i = 2; i < 5; i++) { /* the same one again, when it is asked for */
    vmm_queue_again(of(s, 2));
    AWAIT(s->calls == i);
    EQ(v_used(s->d, 2), 0);
  }
  s->answer = VMM_REQUEST_KEPT;
  vmm_queue_again(of(s, 2));
  AWAIT(s->calls == 7);
  v_halt(s->d);
  EQ(v_used(s->d, 2), 0);
  vmm_queue_push(of(s, 2), &s->kept, NULL, 0);
  vmm_queue_flush(of(s, 2));
  EQ(v_used(s->d, 2), 1);
  end(s);
}

/* A turn of one request: each call is followed by what else the loop has to do. */
TEST(serve_until_enough_is_enough) {
  struct server *s = begin(4);
  s->again = true;
  make(s->d, 2, 10);
  EQ(vmm_queue_serve(of(s, 2), answer, s), 0);
  AWAIT(v_used(s->d, 2) == 10);
  EQ(s->calls, 10);
  end(s);
}

TEST(serve_stops_at_a_broken_ring) {
  struct server *s = begin(4);
  make(s->d, 2, 2);
  v_avail(s->d, 2, 256, 256);
  EQ(vmm_queue_serve(of(s, 2), answer, s), 0);
  AWAIT(v_used(s->d, 2) == 2);
  AWAIT(status(s->d) & S_RESET);
  EQ(s->calls, 2);
  end(s);
}
