/* SPDX-License-Identifier: Apache-2.0 */
/* One bank of NOR flash in the guest's address space; what is in it is a file. */
#ifndef FLASH_H
#define FLASH_H

#include <stdint.h>

#include "nor.h"

struct flash;

struct flash_counters {
  uint64_t programs, erases, syncs;
};

/* `size` bytes (as nor_init() takes them) at the guest-physical `address`, of which the file has the first `backed`; what
 * is behind them reads as erased. Writable: all of it is backed, and what the guest writes is in the file. `fd` is taken
 * over, and closed on failure too. NULL and *error = -errno on failure. */
struct flash *flash_new(const void *api, void *vm, uint64_t address, uint64_t size, int fd, uint64_t backed, int writable,
                        int *error);
/* From any thread but a vCPU's. What was written is on the disk then. */
void flash_free(struct flash *flash);

void flash_reset(struct flash *flash);
void flash_save(struct flash *flash, struct nor_state *state); /* not the contents: the file has them */
int flash_restore(struct flash *flash, const struct nor_state *state);
void flash_read_counters(struct flash *flash, struct flash_counters *counters);

#endif
