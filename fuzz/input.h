/* SPDX-License-Identifier: Apache-2.0 */
/* A fuzzer's bytes as a stream of numbers; zeros once they are used up. */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct input {
  const uint8_t *p;
  size_t n;
};

static inline uint64_t take(struct input *in, unsigned bytes) {
  uint64_t v = 0;
  for (unsigned i = 0; i < bytes && in->n; i++, in->p++, in->n--) v |= (uint64_t)*in->p << (8 * i);
  return v;
}

/* A broken invariant ends the fuzzer as a memory error does. */
#define MUST(cond)                                                             \
  do {                                                                         \
    if (!(cond)) {                                                             \
      fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #cond);       \
      abort();                                                                 \
    }                                                                          \
  } while (0)

#endif
