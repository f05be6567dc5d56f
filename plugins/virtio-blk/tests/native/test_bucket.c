/* SPDX-License-Identifier: Apache-2.0 */
/* The token bucket of vmm_bucket.h: amounts against a clock that the test moves. */
#include "vmm_bucket.h"

#include <stdio.h>
#include <stdlib.h>

#define MS UINT64_C(1000000)
#define EQ(a, b)                                                                                             \
  do {                                                                                                       \
    long long eq_a = (long long)(a), eq_b = (long long)(b);                                                  \
    if (eq_a != eq_b) {                                                                                      \
      fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #a, eq_a, eq_b);                  \
      exit(1);                                                                                               \
    }                                                                                                        \
  } while (0)

static void no_limit(void) {
  struct vmm_bucket b;
  vmm_bucket_init(&b, 0, 5, 100, 1);
  for (int i = 0; i < 100; i++) EQ(vmm_bucket_take(&b, UINT64_MAX, 1), 0);
  vmm_bucket_init(&b, 10, 0, 0, 1);
  for (int i = 0; i < 100; i++) EQ(vmm_bucket_take(&b, 1000, 1), 0);
}

static void full_then_even(void) {
  struct vmm_bucket b;
  uint64_t now = 12345;
  vmm_bucket_init(&b, 100, 0, 1, now); /* 100 tokens per ms: one each 10 us */
  EQ(vmm_bucket_take(&b, 100, now), 0);
  EQ(vmm_bucket_take(&b, 1, now), 10000);
  EQ(vmm_bucket_take(&b, 1, now + 9999), 1);
  EQ(vmm_bucket_take(&b, 1, now + 10000), 0);
  EQ(vmm_bucket_take(&b, 50, now + 10000), 500000);
  EQ(vmm_bucket_take(&b, 100, now + 100 * MS), 0); /* never more than the size is saved up */
  EQ(vmm_bucket_take(&b, 1, now + 100 * MS), 10000);
}

/* A rate with an endless fraction, asked at every ns of the way: not one token too many or too few. */
static void no_fraction_is_lost(void) {
  struct vmm_bucket b;
  vmm_bucket_init(&b, 7, 0, 1, 0);
  EQ(vmm_bucket_take(&b, 7, 0), 0);
  uint64_t taken = 0, step = 1;
  for (uint64_t now = 0; now <= 30 * MS; now += step, step = step % 97 + 1) {
    while (!vmm_bucket_take(&b, 1, now)) taken++;
    EQ(taken, now * 7 / MS);
  }
  if (taken < 200) exit(2);
}

/* To wait as long as it said is enough, and a ns less is not. */
static void the_wait_is_exact(void) {
  static const uint64_t sizes[] = {1, 3, 7, 1000, 999983, UINT64_C(123456789), UINT64_C(1) << 40};
  static const uint64_t times[] = {1, 2, 3, 7, 100, 1000, 60000};
  for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    for (unsigned t = 0; t < sizeof times / sizeof *times; t++) {
      struct vmm_bucket b, c;
      uint64_t now = 1u << 30;
      vmm_bucket_init(&b, sizes[s], 0, times[t], now);
      EQ(vmm_bucket_take(&b, sizes[s], now), 0);
      uint64_t ns = vmm_bucket_take(&b, sizes[s] / 2 + 1, now);
      if (!ns) exit(3);
      c = b;
      EQ(vmm_bucket_take(&c, sizes[s] / 2 + 1, now + ns - 1) > 0, 1);
      EQ(vmm_bucket_take(&b, sizes[s] / 2 + 1, now + ns), 0);
    }
  }
}

static void burst_once(void) {
  struct vmm_bucket b;
  vmm_bucket_init(&b, 10, 5, 10, 0);
  EQ(vmm_bucket_take(&b, 3, 0), 0);      /* of the burst */
  EQ(vmm_bucket_take(&b, 12, 0), 0);     /* 2 of the burst, all 10 of the bucket */
  EQ(vmm_bucket_take(&b, 1, 0), 1 * MS);
  EQ(vmm_bucket_take(&b, 10, 1000 * MS), 0);
  EQ(vmm_bucket_take(&b, 1, 1000 * MS), 1 * MS); /* the burst did not come back */
  vmm_bucket_init(&b, 10, 5, 10, 0);
  EQ(vmm_bucket_take(&b, 10, 0), 0);
  EQ(vmm_bucket_take(&b, 9, 0) > 0, 1);  /* refused: the burst stays whole */
  vmm_bucket_init(&b, 10, 5, 10, 0);
  EQ(vmm_bucket_take(&b, 15, 0), 0);
  EQ(vmm_bucket_take(&b, 1, 0), 1 * MS);
}

static void larger_than_the_bucket(void) {
  struct vmm_bucket b;
  vmm_bucket_init(&b, 10, 0, 10, 0); /* one per ms */
  EQ(vmm_bucket_take(&b, 1, 0), 0);
  EQ(vmm_bucket_take(&b, 100, 0), 1 * MS); /* not before it is full */
  EQ(vmm_bucket_take(&b, 100, 1 * MS), 0);
  EQ(vmm_bucket_take(&b, 1, 1 * MS), 91 * MS); /* 90 of debt */
  EQ(vmm_bucket_take(&b, 1, 91 * MS), 1 * MS);
  EQ(vmm_bucket_take(&b, 1, 92 * MS), 0);
}

static void clock_that_stands_or_goes_back(void) {
  struct vmm_bucket b;
  vmm_bucket_init(&b, 10, 0, 10, 100 * MS);
  EQ(vmm_bucket_take(&b, 10, 50 * MS), 0);
  EQ(vmm_bucket_take(&b, 1, 50 * MS), 1 * MS);
  EQ(vmm_bucket_take(&b, 1, 101 * MS), 0);
}

static void extremes(void) {
  struct vmm_bucket b;
  vmm_bucket_init(&b, UINT64_MAX, UINT64_MAX, UINT64_MAX, 0);
  EQ(vmm_bucket_take(&b, UINT64_MAX, 0), 0);
  EQ(vmm_bucket_take(&b, UINT64_MAX, UINT64_MAX) , 0);
  EQ(vmm_bucket_take(&b, UINT64_MAX, UINT64_MAX) > 0, 1);
  vmm_bucket_init(&b, 1, 0, UINT64_MAX, 0);
  EQ(vmm_bucket_take(&b, UINT64_MAX, 0), 0);
  EQ(vmm_bucket_take(&b, 1, 0), INT64_MAX);
}

static void both_or_none(void) {
  struct vmm_limiter l;
  vmm_bucket_init(&l.bytes, 1000, 0, 1, 0);
  vmm_bucket_init(&l.ops, 2, 0, 1, 0);
  EQ(vmm_limiter_on(&l), 1);
  EQ(vmm_limiter_take(&l, 600, 0), 0);
  EQ(vmm_limiter_take(&l, 600, 0), 200000); /* bytes are short; the second operation was not taken */
  EQ(vmm_limiter_take(&l, 400, 0), 0);
  EQ(vmm_limiter_take(&l, 1, 0), 500000);
  vmm_bucket_init(&l.bytes, 0, 0, 0, 0);
  vmm_bucket_init(&l.ops, 0, 0, 0, 0);
  EQ(vmm_limiter_on(&l), 0);
}

int main(void) {
  no_limit();
  full_then_even();
  no_fraction_is_lost();
  the_wait_is_exact();
  burst_once();
  larger_than_the_bucket();
  clock_that_stands_or_goes_back();
  extremes();
  both_or_none();
  puts("ok");
  return 0;
}
