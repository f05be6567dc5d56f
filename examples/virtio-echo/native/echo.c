/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane of virtio-echo. Its requests are served on a loop's thread, without Python. */
#include "echo.h"

#include <stdlib.h>
#include <string.h>

#include "vmmcore.h"

struct echo {
  const struct vmm_api *api;
  uint64_t *bytes;
};

/* Copy what the driver wrote to where it wants the answer. Both are lists of pieces; returns how much it was. */
static size_t copy(const struct iovec *from, size_t n_from, const struct iovec *to, size_t n_to) {
  size_t done = 0, skip_from = 0, skip_to = 0;
  while (n_from && n_to) {
    size_t n = from->iov_len - skip_from;
    if (n > to->iov_len - skip_to) n = to->iov_len - skip_to;
    memmove((char *)to->iov_base + skip_to, (char *)from->iov_base + skip_from, n); /* the guest may have them overlap */
    done += n;
    skip_from += n;
    skip_to += n;
    if (skip_from == from->iov_len) from++, n_from--, skip_from = 0;
    if (skip_to == to->iov_len) to++, n_to--, skip_to = 0;
  }
  return done;
}

static int64_t serve(void *opaque, vmm_queue *queue, struct vmm_chain *chain, struct iovec *iov) {
  struct echo *e = opaque;
  (void)queue;
  size_t n = copy(iov, chain->n_out, iov + chain->n_out, chain->n_in);
  if (e->bytes) __atomic_fetch_add(e->bytes, n, __ATOMIC_RELAXED);
  return (int64_t)n;
}

void *echo_new(const void *table, void *vm, const char *id) {
  const struct vmm_api *api = table;
  if (vmm_api_check(api, 4)) return NULL;
  struct echo *e = calloc(1, sizeof *e);
  if (e) *e = (struct echo){.api = api, .bytes = api->counter(vm, id, "bytes")};
  return e;
}

int echo_start(void *echo, void *queue) {
  struct echo *e = echo;
  return e->api->queue_serve(queue, serve, e);
}

void echo_free(void *echo) {
  free(echo);
}
