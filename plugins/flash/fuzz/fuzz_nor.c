/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer target for the flash's state machine. Input: records of 8 bytes, an access each: byte 0 its size and kind,
 * bytes 1-3 where, bytes 4-7 what. The flash has 1 MiB, of which the lowest block and the last one are reached most.
 *
 * So it must be: nothing outside of the array is touched, a flash that may not be written stays as it is, bits are set
 * by an erase only and cleared by a program only, and what is said to have changed is all that has.
 */
#include "nor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what)                                                        \
  do {                                                                     \
    if (!(what)) {                                                         \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);   \
      abort();                                                             \
    }                                                                      \
  } while (0)

enum { SIZE = 1 << 20 };

struct seen {
  uint64_t offset, len;
  unsigned count;
};

static void changed(void *opaque, uint64_t offset, uint64_t len) {
  struct seen *s = opaque;
  CHECK(len && offset < SIZE && len <= SIZE - offset);
  *s = (struct seen){offset, len, s->count + 1};
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  static uint8_t *before;
  if (size < 9) return 0;
  bool writable = input[0] & 1;
  uint64_t backed = writable || !(input[0] & 2) ? SIZE : SIZE / 2 + 5;
  input++, size--;
  uint8_t *data = malloc(backed);
  if (!before) before = malloc(SIZE);
  if (!data || !before) abort();
  for (uint64_t i = 0; i < backed; i++) data[i] = (uint8_t)(i ^ i >> 8);
  struct nor n;
  struct seen seen = {0};
  nor_init(&n, data, backed, SIZE, writable);
  n.changed = changed;
  n.opaque = &seen;

  for (; size >= 8; input += 8, size -= 8) {
    uint32_t width = 1u << (input[0] & 3);
    uint64_t at = (uint64_t)(input[1] | input[2] << 8 | input[3] << 16) % (SIZE - width + 1);
    if (input[0] & 8) at &= ~(uint64_t)(width - 1);
    uint8_t bytes[8];
    for (unsigned i = 0; i < 8; i++) bytes[i] = input[4 + i % 4];
    uint64_t block = at / NOR_BLOCK * NOR_BLOCK, end = block + NOR_BLOCK < backed ? block + NOR_BLOCK : backed;
    unsigned count = seen.count;
    if (input[0] & 4) {
      nor_read(&n, at, bytes, width);
      CHECK(seen.count == count);
      continue;
    }
    if (block < end) memcpy(before + block, data + block, end - block);
    uint64_t programs = n.programs, erases = n.erases;
    nor_write(&n, at, bytes, width);
    CHECK(n.s.status & 0x80);
    CHECK(seen.count - count == n.programs - programs + n.erases - erases);
    CHECK(writable || seen.count == 0);
    if (seen.count == count || n.s.at / NOR_BLOCK * NOR_BLOCK != block) continue; /* a buffer may be for elsewhere */
    for (uint64_t i = block; i < end && n.erases == erases && width < 8; i++) {
      CHECK((data[i] & ~before[i]) == 0);
      CHECK(data[i] == before[i] || (i >= seen.offset && i - seen.offset < seen.len));
    }
  }
  struct nor_state state = n.s;
  CHECK(!nor_restore(&n, &state)); /* every state that it gets into is one that it can be put into */
  free(data);
  return 0;
}
