/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm_bucket.h - token buckets for rate limits, for plugins' data planes. Header only, no state but the caller's.
 *
 * A bucket holds up to `size` tokens and gains `size` of them per refill time, evenly: after t ns exactly
 * t * size / refill_time, with no fraction lost however often it is asked. It starts full, with a burst on top
 * that is spent first and does not come back. Nothing happens in the background: who is told to wait n ns sets a
 * timer for that and asks again; there is no other delay.
 *
 * An amount larger than the bucket passes once the bucket is full and leaves a debt, so that the rate holds on
 * average. A bucket is used by one thread at a time.
 */
#ifndef VMM_BUCKET_H
#define VMM_BUCKET_H

#include <stdint.h>

__extension__ typedef __int128 vmm_int128;

struct vmm_bucket {
  uint64_t size;    /* tokens; 0: no limit */
  uint64_t burst;   /* what is left of the one-time burst */
  uint64_t period;  /* ns in which `size` tokens come */
  uint64_t updated; /* ns: when `level` was right */
  vmm_int128 level; /* in 1/period of a token, so that a ns adds `size`; negative: debt */
};

/* The largest bucket, burst and amount: keeps every product far inside 127 bits. */
#define VMM_BUCKET_MAX (UINT64_C(1) << 60)

/* `size` 0 or `refill_time_ms` 0: no limit. Times are of one clock that does not go back. */
static inline void vmm_bucket_init(struct vmm_bucket *b, uint64_t size, uint64_t one_time_burst,
                                   uint64_t refill_time_ms, uint64_t now_ns) {
  const uint64_t max_ms = UINT64_C(1) << 36; /* two years */
  b->size = refill_time_ms ? size : 0;
  if (b->size > VMM_BUCKET_MAX) b->size = VMM_BUCKET_MAX;
  b->burst = one_time_burst > VMM_BUCKET_MAX ? VMM_BUCKET_MAX : one_time_burst;
  b->period = (refill_time_ms > max_ms ? max_ms : refill_time_ms) * 1000000u;
  b->updated = now_ns;
  b->level = (vmm_int128)b->size * b->period;
}

/* 0: `amount` can be taken now; else the ns until it can be, if nobody takes any meanwhile. Takes nothing. */
static inline uint64_t vmm_bucket_wait(struct vmm_bucket *b, uint64_t amount, uint64_t now_ns) {
  if (!b->size) return 0;
  vmm_int128 full = (vmm_int128)b->size * b->period;
  if (now_ns > b->updated) {
    b->level += (vmm_int128)(now_ns - b->updated) * b->size;
    if (b->level > full) b->level = full;
    b->updated = now_ns;
  }
  if (amount <= b->burst) return 0;
  amount -= b->burst;
  vmm_int128 missing = (amount > b->size ? full : (vmm_int128)amount * b->period) - b->level;
  if (missing <= 0) return 0;
  vmm_int128 ns = (missing + b->size - 1) / b->size; /* rounded up: then it is there for sure */
  return ns > INT64_MAX ? INT64_MAX : (uint64_t)ns;
}

/* Take what vmm_bucket_wait() said is there. */
static inline void vmm_bucket_spend(struct vmm_bucket *b, uint64_t amount) {
  if (!b->size) return;
  if (amount > VMM_BUCKET_MAX) amount = VMM_BUCKET_MAX;
  uint64_t from_burst = amount < b->burst ? amount : b->burst;
  b->burst -= from_burst;
  b->level -= (vmm_int128)(amount - from_burst) * b->period;
}

/* 0: taken; else the ns until it can be, and nothing is taken. */
static inline uint64_t vmm_bucket_take(struct vmm_bucket *b, uint64_t amount, uint64_t now_ns) {
  uint64_t ns = vmm_bucket_wait(b, amount, now_ns);
  if (!ns) vmm_bucket_spend(b, amount);
  return ns;
}

/* Bytes and operations limited together: a request takes from both buckets or from none. */
struct vmm_limiter {
  struct vmm_bucket bytes, ops;
};

static inline int vmm_limiter_on(const struct vmm_limiter *l) {
  return l->bytes.size || l->ops.size;
}

/* As vmm_bucket_take(), for one operation of `bytes` bytes. */
static inline uint64_t vmm_limiter_take(struct vmm_limiter *l, uint64_t bytes, uint64_t now_ns) {
  uint64_t a = vmm_bucket_wait(&l->bytes, bytes, now_ns), b = vmm_bucket_wait(&l->ops, 1, now_ns);
  if (a || b) return a > b ? a : b;
  vmm_bucket_spend(&l->bytes, bytes);
  vmm_bucket_spend(&l->ops, 1);
  return 0;
}

#endif
