/* SPDX-License-Identifier: Apache-2.0 */
/* The data plane of the network device: what its Python half calls. Main thread only. */
#ifndef NET_H
#define NET_H

#include <stdint.h>

/* What the host side is. */
enum {
  NET_TAP = 0,    /* a TAP or macvtap: one frame a read, each behind a 12-byte virtio_net_hdr */
  NET_PACKET = 1, /* a socket that keeps messages apart: one frame each, no header */
  NET_STREAM = 2, /* a stream socket: each frame behind its length, 32 bits big endian (passt, QEMU's -net socket) */
};

struct net;

/* `fds`: one of the host side for each of `pairs` queue pairs, not blocking; the caller's, open until net_free().
 * NULL and *error = -errno on failure. */
struct net *net_new(const void *api, void *vm, const char *id, int mode, uint32_t pairs, const int *fds, int *error);
void net_free(struct net *net);

/* Rate limits of each direction and pair (vmm_bucket.h), before the first net_start(). */
int net_limit(struct net *net, uint64_t bw_size, uint64_t bw_burst, uint64_t bw_refill_ms, uint64_t ops_size,
              uint64_t ops_burst, uint64_t ops_refill_ms);

/* Drive a pair's queues (vmm_queue *, 0: not active). A pair that is not `enabled` sends but gets no frames. */
int net_start(struct net *net, uint32_t pair, uintptr_t rx_queue, uintptr_t tx_queue, int enabled);
/* Whether the host side gives frames to this pair. */
int net_enable(struct net *net, uint32_t pair, int enabled);
/* All pairs; the core's handlers of the queues have ended. */
void net_stop(struct net *net);

/* A TAP queue: size of the header before each frame; which offloads (TUN_F_*) it may leave to the reader;
 * whether the kernel gives frames to this queue. 0 or -errno. */
int net_tap_header(int fd, int size);
int net_tap_offload(int fd, uint32_t flags);
int net_tap_attach(int fd, int attached);
/* Only frames to these addresses (6 bytes each; none: all), and with `all_multicast` all multicast ones. */
int net_tap_filter(int fd, int all_multicast, uint32_t count, const uint8_t *addresses);

#endif
