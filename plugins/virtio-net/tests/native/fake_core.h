/* SPDX-License-Identifier: Apache-2.0 */
/* A core for the data plane without a VM: queues that the test fills, and one loop that runs when the test says so. */
#ifndef FAKE_CORE_H
#define FAKE_CORE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "vmmcore.h"

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                \
    }                                                                         \
  } while (0)

enum { FAKE_POSTED = 4096, FAKE_IOV = 1100 };

struct posted {
  struct iovec *iov; /* each piece is its own allocation, so that the sanitizer sees its bounds */
  uint32_t n_out, n_in, written;
  bool used;
};

struct vmm_queue {
  uint32_t size;
  uint64_t features;
  struct posted posted[FAKE_POSTED];
  uint32_t added, popped, used, shown; /* counts */
  uint32_t order[FAKE_POSTED];         /* of being used */
  uint32_t flushes, failures;
  bool wants_kick, broken;
  vmm_queue_fn fn;
  void *opaque;
};

extern const struct vmm_api fake_api;
extern uint64_t fake_now; /* 0: the real clock */
extern unsigned fake_logged;

void fake_reset(struct vmm_queue *q, uint32_t size, uint64_t features);
void fake_free(struct vmm_queue *q);
/* Make a request available: sizes of n_out pieces to read, then n_in to write. Its number. */
uint32_t fake_add(struct vmm_queue *q, uint32_t n_out, uint32_t n_in, const uint32_t *sizes);
uint32_t fake_add_in(struct vmm_queue *q, uint32_t size);
/* A frame to send: a zeroed header and `len` bytes in one piece. */
uint32_t fake_add_frame(struct vmm_queue *q, const void *frame, uint32_t len);
/* Kick the device if it asked for it. */
void fake_kick(struct vmm_queue *q);
/* The queue's handler is no longer called. */
void fake_quiesce(struct vmm_queue *q);
/* Run the loop until nothing happens for `ms`. True if anything did. */
bool fake_run(int ms);
/* At most this many handlers. */
unsigned fake_run_some(int ms, unsigned most);
uint64_t fake_counter(const char *name);
unsigned fake_watched(void); /* fds on the loop */

#endif
