/* SPDX-License-Identifier: Apache-2.0 */
/* In place of the core: one loop thread, and queues whose requests a test makes out of plain memory. */
#ifndef FAKE_CORE_H
#define FAKE_CORE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmmcore.h"

enum { FAKE_PIECES = 2048, FAKE_REQUESTS = 4096, FAKE_ENTRIES = 16 };

struct fake_request {
  struct iovec iov[FAKE_PIECES];
  uint32_t n_out, n_in;
  uint32_t written;
  bool done;
};

struct vmm_queue {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  uint32_t size;
  uint64_t features;
  struct fake_request *request[FAKE_REQUESTS]; /* all that were ever posted */
  uint32_t posted, popped, pushed, flushed, flushes;
  uint32_t refills; /* so often a request is posted again the moment it is popped */
  bool want_kick;
  int kick_fd;
  vmm_queue_fn fn;
  void *opaque;
  char failed[100];
};

extern const struct vmm_api fake_api;

void fake_start(void); /* the loop's thread */
void fake_stop(void);
void fake_queue_init(struct vmm_queue *q, uint32_t size, uint64_t features);
void fake_queue_halt(struct vmm_queue *q); /* as the core does before stop() */
void fake_queue_free(struct vmm_queue *q);
struct fake_request *fake_post(struct vmm_queue *q, const struct iovec *out, uint32_t n_out, const struct iovec *in,
                               uint32_t n_in);
void fake_wait(struct vmm_queue *q, const struct fake_request *r);

#define CHECK(what)                                                                     \
  do {                                                                                  \
    if (!(what)) fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what), abort(); \
  } while (0)
#define EQ(a, b)                                                                                               \
  do {                                                                                                         \
    long long eq_a = (long long)(a), eq_b = (long long)(b);                                                    \
    if (eq_a != eq_b)                                                                                          \
      fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #a, eq_a, eq_b), abort();           \
  } while (0)

#endif
