/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane of the entropy device: random bytes of a host file into the requests of one virtqueue. */
#ifndef RNG_H
#define RNG_H

#include <stdint.h>

struct rng;

/* Takes the fd `source` over, also on failure. `bw` and `ops`: size, one-time burst and refill time in ms of
 * a token bucket each; size 0: no limit. NULL and *error = -errno on failure. */
struct rng *rng_new(const void *api, void *vm, const char *id, int source, const uint64_t bw[3],
                    const uint64_t ops[3], int *error);
/* Serve `queue` (a vmm_queue *) until rng_stop(). 0 or -errno. */
int rng_start(struct rng *rng, void *queue);
void rng_stop(struct rng *rng);
void rng_free(struct rng *rng);

#endif
