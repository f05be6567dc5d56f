/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane of the memory balloon: pages that the guest does without go back to the host. */
#ifndef BALLOON_H
#define BALLOON_H

#include <stdint.h>

enum { BALLOON_STATS = 16 }; /* tags of the guest's statistics that are known */

struct balloon;

/* NULL and *error = -errno on failure. `id` names its counters. */
struct balloon *balloon_new(const void *api, void *vm, const char *id, int *error);
/* Serve the queues (vmm_queue *, NULL: not there) until balloon_stop(), which is due after a failure too. 0 or -errno. */
int balloon_start(struct balloon *b, void *inflate, void *deflate, void *stats, void *const reports[], unsigned n);
void balloon_stop(struct balloon *b);
/* Ask the guest for fresh statistics: they come when it likes. */
void balloon_ask(struct balloon *b);
/* The last statistics by tag; what the guest has not told is UINT64_MAX. */
void balloon_stats(struct balloon *b, uint64_t out[BALLOON_STATS]);
void balloon_free(struct balloon *b);

#endif
