/* SPDX-License-Identifier: Apache-2.0 */
/* io_uring by its system calls: one ring, one file, one thread. See io_uring(7). */
#ifndef URING_H
#define URING_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "request.h"

struct uring {
  int fd;
  int event_fd; /* written when something has completed: for a loop, edge-triggered, it need not be read */
  bool deferred; /* the kernel finishes work only when its thread asks for it (DEFER_TASKRUN) */
  bool disabled;
  uint32_t *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail, *cq_flags;
  uint32_t sq_mask, cq_mask, tail;
  struct io_uring_sqe *sqes;
  struct io_uring_cqe *cqes;
  void *ring;
  size_t ring_len, sqes_len;
};

/* A ring for up to `entries` operations on `file_fd`; 0 or -errno, the host does not allow it. Any thread. */
int uring_open(struct uring *u, uint32_t entries, int file_fd);
/* From here on only the calling thread uses the ring, until uring_close(). 0 or -errno. */
int uring_enable(struct uring *u);
/* Queue r->io. There is room if no more than `entries` are under way. */
void uring_add(struct uring *u, struct request *r);
/* Give all that was queued to the kernel; 0, or -errno if it took only part of it. */
int uring_submit(struct uring *u);
/* How many were queued that the kernel did not take. */
uint32_t uring_waiting(const struct uring *u);
/* The next that has completed, and its result; NULL: none. */
struct request *uring_next(struct uring *u, int64_t *res);
/* After uring_submit() failed: the next that the kernel did not take; NULL: none is left. */
struct request *uring_take_back(struct uring *u);
/* Let go of the file at once, and not when the kernel gets round to it. The ring's thread, nothing under way. */
void uring_release(struct uring *u);
/* Any thread; nothing is under way. */
void uring_close(struct uring *u);

/* Are there completions, or such that the kernel finishes with the next uring_submit()? */
bool uring_ready(const struct uring *u);
/* No events, please, while we are at it anyway; after uring_quiet(false), which tells of nothing that came before,
 * ask uring_ready(). */
void uring_quiet(struct uring *u, bool quiet);

#endif
