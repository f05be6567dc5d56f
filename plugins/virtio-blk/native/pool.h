/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that carry out operations, for hosts that forbid io_uring. */
#ifndef POOL_H
#define POOL_H

#include "request.h"

struct pool;

/* `done` is called on a thread of the pool with each request once r->res is set. NULL without memory or threads. */
struct pool *pool_new(int fd, void (*done)(struct request *r));
/* Carry out r->io. Never blocks. */
void pool_add(struct pool *pool, struct request *r);
/* Nothing is under way. */
void pool_free(struct pool *pool);

#endif
