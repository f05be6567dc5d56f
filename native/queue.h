/* SPDX-License-Identifier: Apache-2.0 */
/* A virtqueue as its device sees it (virtio 1.2 §2.7 split, §2.8 packed). See queue.c. */
#ifndef VMM_QUEUE_H
#define VMM_QUEUE_H

#include "native.h"

enum { VMM_F_INDIRECT = 28, VMM_F_EVENT_IDX = 29, VMM_F_VERSION_1 = 32, VMM_F_PACKED = 34 };

/* What a queue has done since the machine was built. Written by the queue's thread, read by any. */
enum { VMM_COUNT_REQUESTS, VMM_COUNT_OUT, VMM_COUNT_IN, VMM_COUNT_INTERRUPTS, VMM_COUNT_KICKS, VMM_COUNTS };

struct vmm_queue {
  vmm_vm *vm;
  uint64_t features; /* negotiated */
  uint32_t size;     /* 0: not usable */
  const char *why;   /* not NULL: the driver broke the ring, and how; nothing is popped any more */
  uint8_t *desc, *driver, *device; /* the three areas, checked once; avail and used of a split ring */
  uint16_t next_avail, next_used, signalled;
  bool avail_wrap, used_wrap, signalled_wrap; /* packed: ring wrap counters */
  bool pushed;
  uint8_t *first; /* packed: the first used descriptor since the last flush, its flags not written yet */
  uint16_t first_flags;
  uint64_t count[VMM_COUNTS];
  void (*interrupt)(struct vmm_queue *q);
  void (*broken)(struct vmm_queue *q, const char *why);

  /* the transport's (virtio.c) */
  struct vmm_virtio *virtio;
  unsigned index;
  uint16_t max, want, vector; /* want: the size in the register */
  bool enabled, resetting;
  uint64_t at[3]; /* guest-physical: descriptor table, driver area, device area */
  int eventfd;    /* the ioeventfd */
  int kick_fd;    /* its duplicate for this activation, -1: none */
  int loop_fd;    /* likewise, the one that a handler in C is called for */
  int call_fd;    /* for others who interrupt: vhost, a process; made when asked for */
  vmm_loop *loop;
  unsigned loop_index;
  vmm_queue_fn fn;
  void *opaque;
  vmm_request_fn request; /* vmm_queue_serve(): called with the next two */
  void *request_opaque;
  struct iovec *iov;
  uint32_t cap;
  _Atomic bool again; /* the next kick is one of our own */
};

int vmm_queue_start(vmm_queue *q, vmm_vm *vm, uint32_t size, uint64_t features, uint64_t desc, uint64_t driver,
                    uint64_t device);

/* From the queue's thread alone. */
static inline void vmm_queue_count(vmm_queue *q, unsigned what, uint64_t n) {
  __atomic_store_n(&q->count[what], q->count[what] + n, __ATOMIC_RELAXED);
}

#endif
