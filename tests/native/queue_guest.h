/* SPDX-License-Identifier: Apache-2.0 */
/* A virtqueue with both its ends: the core's, and a driver's that writes whatever it likes into guest memory. */
#ifndef QUEUE_GUEST_H
#define QUEUE_GUEST_H

#include "harness.h"
#include "queue.h"

/* Two pieces of RAM that touch in the guest (and hardly ever in the host), a hole, a third piece. */
enum { PIECE = 0x100000, RAM_END = 2 * PIECE, FAR_RAM = 0x400000, FAR_SIZE = 0x10000 };
enum { DESC_AT = 0x10000, DRIVER_AT = 0x90000, DEVICE_AT = 0x140000, TABLE_AT = 0xe0000, DATA_AT = 0xf0000 };
enum { Q_NEXT = 1, Q_WRITE = 2, Q_INDIRECT = 4, Q_AVAIL = 1 << 7, Q_USED = 1 << 15 };
enum { Q_ENABLE, Q_DISABLE, Q_DESC };
#define BIT(n) (1ull << (n))
#define Q_PACKED BIT(VMM_F_PACKED)
#define Q_EVENTS BIT(VMM_F_EVENT_IDX)
#define Q_TABLES BIT(VMM_F_INDIRECT)

struct ring {
  vmm_queue q; /* first: the callbacks know only it */
  vmm_vm *vm;
  unsigned interrupts, breaks;
  uint16_t avail_idx;
  struct vmm_chain chain;
  struct iovec iov[1100];
};

static inline void ring_interrupt(vmm_queue *q) {
  ((struct ring *)q)->interrupts++;
}

static inline void ring_broken(vmm_queue *q, const char *why) {
  CHECK(why && *why);
  ((struct ring *)q)->breaks++;
}

static inline void *at(struct ring *r, uint64_t gpa, uint64_t len) {
  void *p = vmm_mem(r->vm, gpa, len);
  CHECK(p);
  return p;
}

static inline uint16_t peek16(struct ring *r, uint64_t gpa) {
  return (uint16_t)vmm_load(at(r, gpa, 2), 2);
}

static inline uint32_t peek32(struct ring *r, uint64_t gpa) {
  return (uint32_t)vmm_load(at(r, gpa, 4), 4);
}

static inline void poke16(struct ring *r, uint64_t gpa, uint16_t v) {
  vmm_store(at(r, gpa, 2), 2, v);
}

/* A descriptor of either ring or of an indirect table: split flags, next; packed id, flags. */
static inline void poke_desc(struct ring *r, uint64_t gpa, uint64_t addr, uint32_t len, unsigned a, unsigned b) {
  uint8_t *d = at(r, gpa, 16);
  vmm_store(d, 8, addr);
  vmm_store(d + 8, 4, len);
  vmm_store(d + 12, 2, a);
  vmm_store(d + 14, 2, b);
}

static inline void desc(struct ring *r, unsigned i, uint64_t addr, uint32_t len, unsigned a, unsigned b) {
  poke_desc(r, DESC_AT + 16ull * i, addr, len, a, b);
}

static inline void entry(struct ring *r, unsigned i, uint64_t addr, uint32_t len, unsigned a, unsigned b) {
  poke_desc(r, TABLE_AT + 16ull * i, addr, len, a, b);
}

static inline struct ring *ring_memory(void) {
  struct ring *r = calloc(1, sizeof *r);
  CHECK(r);
  r->vm = fake_vm();
  EQ(vmm_mem_add(r->vm, 0, PIECE, 0, 0), 0);
  EQ(vmm_mem_add(r->vm, PIECE, PIECE, 0, 0), 0);
  EQ(vmm_mem_add(r->vm, FAR_RAM, FAR_SIZE, 0, 0), 0);
  return r;
}

static inline struct ring *ring_new(uint32_t size, uint64_t features) {
  struct ring *r = ring_memory();
  r->q.interrupt = ring_interrupt;
  r->q.broken = ring_broken;
  EQ(vmm_queue_start(&r->q, r->vm, size, features, DESC_AT, DRIVER_AT, DEVICE_AT), 0);
  return r;
}

static inline void ring_end(struct ring *r) {
  fake_vm_end(r->vm);
  free(r);
}

/* r->chain and r->iov are the last request's: they stay when there is none. */
static inline int pop(struct ring *r) {
  static struct iovec iov[1100];
  struct vmm_chain chain;
  int got = vmm_queue_pop(&r->q, &chain, iov, 1100);
  if (got == 1) {
    r->chain = chain;
    memcpy(r->iov, iov, sizeof iov);
  }
  return got;
}

/* Whatever breaks a queue is told once, stays, and stops everything. */
static inline void must_break(struct ring *r) {
  EQ(pop(r), -EPROTO);
  EQ(r->breaks, 1);
  EQ(pop(r), -EPROTO);
  EQ(r->breaks, 1);
  EQ(vmm_queue_wait(&r->q), 0);
  vmm_queue_quiet(&r->q);
  EQ(vmm_queue_flush(&r->q), 0);
  EQ(r->interrupts, 0);
  ring_end(r);
}

/* --- split --- */

static inline void avail(struct ring *r, uint16_t head) {
  poke16(r, DRIVER_AT + 4 + 2u * (r->avail_idx % r->q.size), head);
  poke16(r, DRIVER_AT + 2, ++r->avail_idx);
}

static inline uint16_t used_idx(struct ring *r) {
  return peek16(r, DEVICE_AT + 2);
}

static inline void used_event(struct ring *r, uint16_t v) {
  poke16(r, DRIVER_AT + 4 + 2u * r->q.size, v);
}

static inline uint16_t avail_event(struct ring *r) {
  return peek16(r, DEVICE_AT + 4 + 8u * r->q.size);
}

#define USED_IS(r, n, wanted_id, wanted_len)                                        \
  do {                                                                              \
    uint64_t used_at = DEVICE_AT + 4 + 8ull * ((n) % (r)->q.size);                  \
    EQ(peek32(r, used_at), wanted_id);                                              \
    EQ(peek32(r, used_at + 4), wanted_len);                                         \
  } while (0)

#define PIECE_IS(r, n, gpa, len)                         \
  do {                                                   \
    CHECK((r)->iov[n].iov_base == at(r, gpa, len));      \
    EQ((r)->iov[n].iov_len, len);                        \
  } while (0)

#endif
