/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-blk's data plane (virtio 1.2 §5.2): what the Python half calls. All of it on the main thread. */
#ifndef BLK_H
#define BLK_H

#include <stdbool.h>
#include <stdint.h>

struct blk;

struct blk_setup {
  int fd; /* stays the caller's */
  bool readonly, direct, sparse, no_uring;
  uint32_t queues;
  char id[20];
  uint64_t bw[3], ops[3]; /* vmm_bucket: size, one-time burst, refill time in ms */
};

/* What the guest is told of the disk; bytes but for `capacity`, which is in sectors of 512. */
struct blk_info {
  uint64_t capacity;
  uint32_t block, physical, alignment, min_io, opt_io, granularity;
  uint32_t max_range, max_segments; /* of discard and write zeroes: sectors, number */
  bool is_device;
};

struct blk_counters {
  uint64_t read_bytes, read_ops, write_bytes, write_ops, flushes, discards, write_zeroes, errors;
};

/* NULL and *error = -errno on failure. */
struct blk *blk_new(const void *api, void *vm, const struct blk_setup *setup, int *error);
/* After blk_stop(). */
void blk_free(struct blk *blk);
void blk_get_info(const struct blk *blk, struct blk_info *info);

/* Serve the vmm_queue at `queue`, number `index` of the device. 0 or -errno; blk_stop() in any case. */
int blk_start(struct blk *blk, uint32_t index, void *queue);
/* Returns once nothing is in flight; requests that were not begun stay in the rings. */
void blk_stop(struct blk *blk);
/* Does it run on io_uring? Known after the first blk_start(). */
bool blk_uring(const struct blk *blk);

/* The `writeback` byte of the device configuration. Off: all writes so far are made durable, and each from now on. */
void blk_set_writeback(struct blk *blk, bool writeback);
/* Read the size of the file again: 0 or -errno. */
int blk_resize(struct blk *blk);
void blk_get_counters(const struct blk *blk, struct blk_counters *out);

#endif
