/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the data plane: the two directions of a queue pair. Each belongs to the loop of its queue. */
#ifndef NET_PLANE_H
#define NET_PLANE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "net.h"
#include "vmm_bucket.h"
#include "vmmcore.h"

enum {
  NET_HDR = 12,               /* struct virtio_net_hdr with num_buffers (virtio 1.2 §5.1.6) */
  NET_FRAME_MAX = 65536 + 32, /* the longest frame: 64 KiB of IP, Ethernet header, VLAN tags */
  NET_STREAM_BUFFER = 256 << 10,
  NET_MAX_IOV = 1024, /* IOV_MAX of readv() and writev() */
  NET_PIECES = 8,     /* of a request, beyond the size of the queue */
  NET_BUDGET = 256,   /* frames before others on the loop have their turn */
};

struct rx {
  struct net *net;
  int fd, timer;
  vmm_queue *queue; /* NULL: stopped */
  vmm_loop *loop;
  _Atomic bool enabled;
  bool mergeable;
  bool starved; /* no buffers: a kick goes on */
  bool muted;   /* starved, and the fd not watched for that time */
  bool held;    /* by the rate limit: the timer goes on */
  bool broken;  /* by the driver: until the next start */
  bool gone;    /* the host side has closed */
  /* Buffers popped and not yet used: iov[head … tail), and chains[n] where iov[n] is the first piece of one. */
  struct iovec *iov;
  struct vmm_chain *chains;
  uint32_t size, cap, head, tail;
  uint64_t room;    /* bytes in them */
  uint32_t want;    /* bytes to have popped before a read */
  uint32_t shorts;  /* short frames in a row */
  uint32_t partial; /* bytes of a frame read, whose end waits in `buffer` for guest buffers; 0: none */
  uint32_t placed;  /* how many of them are in guest buffers */
  uint8_t *buffer;  /* what does not go straight into guest buffers */
  uint32_t from, to; /* stream: bytes in `buffer` */
  struct vmm_limiter limit;
  uint64_t *bytes, *frames, *dropped;
};

struct tx {
  struct net *net;
  int fd, timer; /* `fd`: a duplicate, so that it can be on another loop than rx's */
  vmm_queue *queue;
  vmm_loop *loop;
  bool blocked; /* the host side is full: EPOLLOUT goes on */
  bool held;    /* by the rate limit */
  bool gone;    /* the host side has closed */
  struct iovec *iov;
  uint32_t cap;
  uint8_t *rest; /* stream: the end of a frame that was sent in part */
  uint32_t rest_from, rest_to;
  struct vmm_limiter limit;
  uint64_t *bytes, *frames, *dropped;
};

struct net {
  const struct vmm_api *api;
  vmm_vm *vm;
  int mode;
  bool limited;
  uint32_t pairs;
  char id[64];
  struct rx *rx;
  struct tx *tx;
};

int rx_start(struct rx *rx, vmm_queue *queue, bool enabled);
void rx_stop(struct rx *rx);
int rx_enable(struct rx *rx, bool enabled);
void rx_finish(struct rx *rx); /* leave a stream at the start of a frame */

int tx_start(struct tx *tx, vmm_queue *queue);
void tx_stop(struct tx *tx);
void tx_finish(struct tx *tx);

/* Wake up in `ns`. */
void net_timer(int timer, uint64_t ns);
void net_timer_clear(int timer);
/* poll() for `events` for as long as a helper process may reasonably take. */
bool net_patience(int fd, short events);

#endif
