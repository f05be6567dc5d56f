/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane of virtio-mem: which blocks of a region of RAM the guest has plugged. */
#ifndef MEM_H
#define MEM_H

#include <stdint.h>

struct mem;

enum { MEM_SHARED = 1 /* a file is behind the region */, MEM_PREFAULT = 2 /* have pages at the plug */ };

/* The region [addr, addr + size) is RAM of the VM already; all three are multiples of `block`, a power of two.
 * `token`: of the device, told when the guest has come to the size that it was asked for. */
struct mem *mem_new(const void *api, void *vm, const char *id, uint64_t token, uint64_t addr, uint64_t size,
                    uint64_t block, uint32_t flags, int *error);
/* Serve `queue` (a vmm_queue *) until the core ends its handler. 0 or -errno. */
int mem_start(struct mem *mem, void *queue);
/* The driver is gone, and with it the request that it made last. No handler runs. */
void mem_reset(struct mem *mem);
/* Ask for so many bytes of the region; *usable: how far it may be used now. -EINVAL: not possible. */
int mem_request(struct mem *mem, uint64_t bytes, uint64_t *usable);
/* Bytes that are plugged. */
uint64_t mem_plugged(struct mem *mem);
/* Whether the guest has come to the size that it was asked for, since the last call. */
int mem_done(struct mem *mem);
void mem_free(struct mem *mem);

#endif
