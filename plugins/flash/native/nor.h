/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parallel NOR flash: two 16-bit chips side by side in a bank 32 bits wide, with the Intel command set (CFI 0x0001).
 *
 * Pure state machine, no lock, no I/O. Sources: JEDEC JESD68.01 (Common Flash Interface) and JEP137 (command set and
 * interface ids); commands, status register and block locks as in Intel's StrataFlash P30 datasheet (order 306666), §8
 * to §13. Both chips get every command at once: what the guest writes to the lower one counts for both, and what they
 * answer is the same.
 */
#ifndef NOR_H
#define NOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NOR_BLOCK = 256 << 10 }; /* bytes that one erase clears, of both chips together */
enum { NOR_BUFFER = 128 };      /* bytes that one buffered program writes at most, of both chips together */
enum { NOR_MAX_BLOCKS = 256 };
#define NOR_MIN ((uint64_t)1 << 20)
#define NOR_MAX ((uint64_t)NOR_MAX_BLOCKS * NOR_BLOCK)

enum nor_mode { NOR_ARRAY, NOR_STATUS, NOR_ID, NOR_QUERY };

struct nor_state {
  uint8_t mode;    /* what reads show: enum nor_mode */
  uint8_t status;  /* status register; bit 7 (ready) is always set */
  uint8_t command; /* whose further cycles are awaited; 0: none */
  uint8_t left;    /* buffered program: words still to come; after the last one the confirmation */
  uint32_t at;     /* buffered program: its page of NOR_BUFFER bytes */
  uint8_t paged;   /* buffered program: `at` is known */
  uint8_t buffer[128]; /* NOR_BUFFER; what the chips' write buffer holds: ones where nothing was written */
  uint8_t lock[256];   /* NOR_MAX_BLOCKS; 1: locked, 3: locked down until the next reset */
};

struct nor {
  uint8_t *data;    /* `backed` bytes; the rest of `size` reads as erased */
  uint64_t backed;
  uint64_t size;    /* bytes: a power of two, NOR_MIN to NOR_MAX */
  bool writable;
  struct nor_state s;
  /* Called after [offset, offset + len) of data has changed. */
  void (*changed)(void *opaque, uint64_t offset, uint64_t len);
  void *opaque;
  uint64_t programs, erases;
};

void nor_init(struct nor *n, uint8_t *data, uint64_t backed, uint64_t size, bool writable);
void nor_reset(struct nor *n);
/* `size` bytes (1, 2, 4 or 8) at `offset`, all of it inside nor.size. */
void nor_read(struct nor *n, uint64_t offset, uint8_t *data, uint32_t size);
void nor_write(struct nor *n, uint64_t offset, const uint8_t *data, uint32_t size);
/* 0, or -1 for a state in which no flash can be; then nothing has changed. */
int nor_restore(struct nor *n, const struct nor_state *state);

#endif
