/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the host to the guest (virtio 1.2 §5.1.6.3, §5.1.6.4).
 *
 * Buffers stay popped from one frame to the next: what a frame did not need is there for the one behind it. A read
 * goes straight into them, with our own buffer at the end, so that a frame longer than what was popped is not lost
 * but copied once. How much is popped before a read follows the traffic: room for a short frame while frames are
 * short, for the longest while there are long ones.
 *
 * The fd is watched edge-triggered: read until it is empty, or until the guest has no buffers.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "plane.h"

enum {
  WATCH = EPOLLIN | EPOLLRDHUP | EPOLLET,
  SHORT = 4096,        /* room to have for short frames */
  SHORTS = 256,        /* so many of them until long ones are no longer expected */
  FLUSH = 32,          /* frames until the guest is shown them, at the latest */
  NUM_BUFFERS = 10,    /* offset in the header */
  HELD_MAX = 512,      /* pieces to have popped */
};

enum step { MORE, EMPTY, STARVED, WAITING, DEAD };

static enum step gone(struct rx *rx, const char *why) {
  rx->net->api->log(rx->net->vm, 4, "%s: %s; it receives no more", rx->net->id, why);
  rx->gone = true;
  return DEAD;
}

/* --- the guest's buffers --------------------------------------------------------- */

static void compact(struct rx *rx) {
  uint32_t n = rx->tail - rx->head;
  memmove(rx->iov, rx->iov + rx->head, n * sizeof *rx->iov);
  memmove(rx->chains, rx->chains + rx->head, n * sizeof *rx->chains);
  rx->head = 0, rx->tail = n;
}

/* Pop until there is room for `want` bytes. False: the guest has no more. */
static bool fill(struct rx *rx, uint64_t want) {
  const struct vmm_api *api = rx->net->api;
  while (rx->room < want) {
    if (rx->tail - rx->head > HELD_MAX || (!rx->mergeable && rx->room)) return true;
    if (rx->tail + rx->size + NET_PIECES > rx->cap) compact(rx);
    struct vmm_chain *chain = &rx->chains[rx->tail];
    int got = api->queue_pop(rx->queue, chain, rx->iov + rx->tail, rx->cap - rx->tail);
    if (got <= 0) {
      rx->broken = got < 0;
      return false;
    }
    if (chain->n_out || chain->in_len < NET_HDR) {
      api->queue_unpop(rx->queue, chain);
      api->queue_fail(rx->queue, "a receive buffer that is not for writing, or shorter than the header");
      rx->broken = true;
      return false;
    }
    rx->tail += chain->n_in;
    rx->room += chain->in_len;
  }
  return true;
}

/* Give back what is popped, the last first. */
static void put_back(struct rx *rx) {
  uint32_t n = 0;
  uint32_t *starts = (uint32_t *)(void *)(rx->iov + rx->cap + 1); /* room for cap of them, see rx_start() */
  for (uint32_t i = rx->head; i < rx->tail; i += rx->chains[i].n_in) starts[n++] = i;
  while (n) rx->net->api->queue_unpop(rx->queue, &rx->chains[starts[--n]]);
  rx->head = rx->tail = 0;
  rx->room = 0;
}

/* Copy to `offset` bytes into the popped buffers, which are long enough. */
static void scatter(struct rx *rx, uint64_t offset, const void *data, size_t len) {
  const uint8_t *from = data;
  for (const struct iovec *v = rx->iov + rx->head; len; v++) {
    if (offset >= v->iov_len) {
      offset -= v->iov_len;
      continue;
    }
    size_t n = v->iov_len - offset;
    if (n > len) n = len;
    memcpy((uint8_t *)v->iov_base + offset, from, n);
    from += n, len -= n, offset = 0;
  }
}

/* The `len` bytes at the start of the popped buffers are a frame behind its header: the guest's. */
static void deliver(struct rx *rx, uint32_t len) {
  const struct vmm_api *api = rx->net->api;
  uint32_t count = 0, left = len;
  for (uint32_t at = rx->head; left; count++) {
    left -= left < rx->chains[at].in_len ? left : (uint32_t)rx->chains[at].in_len;
    at += rx->chains[at].n_in;
  }
  uint8_t number[2] = {(uint8_t)count, (uint8_t)(count >> 8)};
  struct iovec *first = &rx->iov[rx->head];
  if (first->iov_len >= NET_HDR)
    memcpy((uint8_t *)first->iov_base + NUM_BUFFERS, number, 2);
  else
    scatter(rx, NUM_BUFFERS, number, 2);
  for (left = len; count; count--) {
    struct vmm_chain *chain = &rx->chains[rx->head];
    uint32_t part = left < chain->in_len ? left : (uint32_t)chain->in_len;
    api->queue_push(rx->queue, chain, rx->iov + rx->head, part);
    rx->room -= chain->in_len;
    rx->head += chain->n_in;
    left -= part;
  }
  if (rx->head == rx->tail) rx->head = rx->tail = 0;
}

/* --- one frame --------------------------------------------------------------------- */

/* The end of a frame is in our buffer: place it once the guest has the room. A frame that does not fit
 * all that the ring can hold is dropped. */
static enum step place_rest(struct rx *rx, uint32_t *bytes) {
  uint32_t len = rx->partial;
  if (!fill(rx, len) || rx->room < len) {
    if (rx->broken) return DEAD;
    if (rx->mergeable && rx->tail - rx->head < rx->size && rx->tail - rx->head <= HELD_MAX) return STARVED;
    rx->partial = 0;
    __atomic_fetch_add(rx->dropped, 1, __ATOMIC_RELAXED);
    return MORE;
  }
  scatter(rx, rx->placed, rx->buffer, len - rx->placed);
  rx->partial = 0;
  deliver(rx, len);
  *bytes = len - NET_HDR;
  return MORE;
}

/* readv() into the popped buffers, and with `more` into our own behind them: *room bytes of it are the guest's. */
static ssize_t read_frame(struct rx *rx, bool more, uint64_t *room) {
  struct iovec *iov = rx->iov + rx->head;
  uint32_t pieces = rx->tail - rx->head;
  *room = rx->room;
  for (; pieces + more > NET_MAX_IOV; pieces--) *room -= iov[pieces - 1].iov_len;
  struct iovec saved = iov[pieces]; /* a buffer of the guest's only if there are very many */
  if (more) iov[pieces] = (struct iovec){rx->buffer, NET_FRAME_MAX};
  ssize_t n;
  do n = readv(rx->fd, iov, (int)(pieces + more));
  while (n < 0 && errno == EINTR);
  iov[pieces] = saved;
  return n;
}

static enum step from_tap(struct rx *rx, uint32_t *bytes) {
  if (rx->partial) return place_rest(rx, bytes);
  if (!fill(rx, rx->want) && !rx->room) return rx->broken ? DEAD : STARVED;
  uint64_t room;
  ssize_t n = read_frame(rx, rx->mergeable, &room);
  if (n < NET_HDR) {
    if (n > 0) return MORE;
    if (!n || errno != EFAULT) return EMPTY; /* EAGAIN; EBADFD, EIO: no longer attached */
    __atomic_fetch_add(rx->dropped, 1, __ATOMIC_RELAXED); /* longer than the buffer, and gone */
    return MORE;
  }
  if ((uint64_t)n > room) { /* long frames have begun */
    rx->want = NET_FRAME_MAX;
    rx->shorts = 0;
    rx->partial = (uint32_t)n;
    rx->placed = (uint32_t)room;
    return place_rest(rx, bytes);
  }
  deliver(rx, (uint32_t)n);
  *bytes = (uint32_t)n - NET_HDR;
  if (n > SHORT)
    rx->shorts = 0;
  else if (rx->want != SHORT && ++rx->shorts == SHORTS)
    rx->want = SHORT;
  return MORE;
}

/* A frame in our own memory. STARVED: not taken. */
static enum step copy_in(struct rx *rx, const uint8_t *frame, uint32_t len, uint32_t *bytes) {
  static const uint8_t header[NET_HDR] = {0};
  if (!fill(rx, len + NET_HDR) || rx->room < len + NET_HDR) {
    if (rx->broken) return DEAD;
    bool full = rx->tail - rx->head >= rx->size || rx->tail - rx->head > HELD_MAX;
    if (!rx->room || (rx->mergeable && !full)) return STARVED;
    __atomic_fetch_add(rx->dropped, 1, __ATOMIC_RELAXED);
    return MORE;
  }
  scatter(rx, 0, header, NET_HDR);
  scatter(rx, NET_HDR, frame, len);
  deliver(rx, len + NET_HDR);
  *bytes = len;
  return MORE;
}

static enum step from_packet(struct rx *rx, uint32_t *bytes) {
  if (!rx->to) {
    ssize_t n;
    do n = recv(rx->fd, rx->buffer, NET_FRAME_MAX, MSG_DONTWAIT | MSG_TRUNC);
    while (n < 0 && errno == EINTR);
    if (n > NET_FRAME_MAX) return MORE;
    if (n <= 0) {
      if (n && (errno == EAGAIN || errno == ECONNREFUSED)) return EMPTY;
      return gone(rx, "the host side has closed");
    }
    rx->to = (uint32_t)n;
  }
  enum step step = copy_in(rx, rx->buffer, rx->to, bytes);
  if (step == MORE) rx->to = 0;
  return step;
}

/* Bytes of the frame at the start of the stream's buffer, with its length; 0: not known yet. */
static uint32_t stream_frame(const struct rx *rx) {
  if (rx->to - rx->from < 4) return 0;
  const uint8_t *p = rx->buffer + rx->from;
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static enum step from_stream(struct rx *rx, uint32_t *bytes) {
  for (;;) {
    uint32_t have = rx->to - rx->from, len = stream_frame(rx);
    if (len > NET_FRAME_MAX) return gone(rx, "the host side has sent a frame of an impossible length");
    if (have >= 4 && have - 4 >= len) {
      enum step step = len ? copy_in(rx, rx->buffer + rx->from + 4, len, bytes) : MORE;
      if (step == MORE) rx->from += 4 + len;
      if (rx->from == rx->to) rx->from = rx->to = 0;
      return step;
    }
    if (rx->from) {
      memmove(rx->buffer, rx->buffer + rx->from, have);
      rx->from = 0, rx->to = have;
    }
    ssize_t n;
    do n = recv(rx->fd, rx->buffer + rx->to, NET_STREAM_BUFFER - rx->to, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno == EAGAIN) return EMPTY;
    if (n <= 0) return gone(rx, "the host side has closed");
    rx->to += (uint32_t)n;
  }
}

/* --- many ---------------------------------------------------------------------------- */

/* Is the limit used up? Then the timer goes on. */
static bool limited(struct rx *rx) {
  uint64_t now = rx->net->api->now_ns(), a = vmm_bucket_wait(&rx->limit.bytes, 1, now),
           b = vmm_bucket_wait(&rx->limit.ops, 1, now);
  if (!a && !b) return false;
  rx->held = true;
  net_timer(rx->timer, a > b ? a : b);
  return true;
}

static void run(struct rx *rx) {
  struct net *net = rx->net;
  const struct vmm_api *api = net->api;
  uint64_t bytes = 0, frames = 0;
  enum step step = MORE;
  if (!atomic_load_explicit(&rx->enabled, memory_order_acquire) || rx->held || rx->broken || rx->gone) return;
  for (unsigned n = 0; step == MORE && n < NET_BUDGET; n++) {
    uint32_t len = 0;
    if (net->limited && limited(rx)) {
      step = WAITING;
      break;
    }
    step = net->mode == NET_TAP      ? from_tap(rx, &len)
           : net->mode == NET_PACKET ? from_packet(rx, &len)
                                     : from_stream(rx, &len);
    if (step == STARVED) {
      api->queue_flush(rx->queue);
      if (api->queue_wait(rx->queue)) {
        api->queue_quiet(rx->queue);
        step = MORE;
      }
    }
    if (!len) continue;
    bytes += len;
    if (net->limited) {
      vmm_bucket_spend(&rx->limit.bytes, len);
      vmm_bucket_spend(&rx->limit.ops, 1);
    }
    if (++frames % FLUSH == 0) api->queue_flush(rx->queue);
  }
  api->queue_flush(rx->queue);
  if (frames) {
    __atomic_fetch_add(rx->bytes, bytes, __ATOMIC_RELAXED);
    __atomic_fetch_add(rx->frames, frames, __ATOMIC_RELAXED);
  }
  if (step == STARVED) rx->starved = true;
  if (step == MORE) api->loop_mod(rx->loop, rx->fd, WATCH); /* others first; this reports the fd anew */
}

static void on_fd(void *opaque, int fd, uint32_t events) {
  struct rx *rx = opaque;
  (void)events;
  if (!rx->starved && !rx->held) {
    run(rx);
  } else if (!rx->muted) { /* it would be reported for each frame that comes */
    rx->muted = true;
    rx->net->api->loop_mod(rx->loop, fd, 0);
  }
}

static void go_on(struct rx *rx) {
  if (rx->muted) rx->net->api->loop_mod(rx->loop, rx->fd, WATCH);
  rx->muted = false;
  run(rx);
}

static void on_kick(void *opaque, vmm_queue *queue) {
  struct rx *rx = opaque;
  rx->net->api->queue_quiet(queue);
  rx->starved = false;
  if (!rx->held) go_on(rx);
}

static void on_timer(void *opaque, int fd, uint32_t events) {
  struct rx *rx = opaque;
  (void)events;
  net_timer_clear(fd);
  rx->held = false;
  if (!rx->starved) go_on(rx);
}

/* --- life ------------------------------------------------------------------------------ */

int rx_start(struct rx *rx, vmm_queue *queue, bool enabled) {
  struct net *net = rx->net;
  const struct vmm_api *api = net->api;
  uint32_t size = api->queue_size(queue);
  uint32_t cap = HELD_MAX + NET_MAX_IOV + 2 * (size + NET_PIECES);
  /* One iovec more for our buffer, and put_back()'s notes. */
  struct iovec *iov = calloc(cap + 1 + cap / 4 + 1, sizeof *iov);
  struct vmm_chain *chains = calloc(cap, sizeof *chains);
  if (!rx->buffer) rx->buffer = malloc(net->mode == NET_STREAM ? NET_STREAM_BUFFER : NET_FRAME_MAX);
  free(rx->iov);
  free(rx->chains);
  rx->iov = iov, rx->chains = chains;
  if (!iov || !chains || !rx->buffer) return -ENOMEM;
  rx->size = size, rx->cap = cap;
  rx->head = rx->tail = rx->shorts = rx->partial = 0;
  rx->room = 0;
  rx->want = SHORT;
  rx->mergeable = api->queue_features(queue) >> 15 & 1; /* VIRTIO_NET_F_MRG_RXBUF */
  rx->starved = rx->muted = rx->held = rx->broken = false;
  rx->loop = api->queue_loop(queue);
  rx->queue = queue;
  atomic_store(&rx->enabled, false);
  int err = net->limited ? api->loop_add(rx->loop, rx->timer, EPOLLIN, on_timer, rx) : 0;
  if (!err) err = api->queue_handle(queue, on_kick, rx);
  if (!err && enabled) err = rx_enable(rx, true);
  return err;
}

int rx_enable(struct rx *rx, bool enabled) {
  struct net *net = rx->net;
  if (!rx->queue || atomic_load(&rx->enabled) == enabled) return 0;
  atomic_store_explicit(&rx->enabled, enabled, memory_order_release);
  if (enabled) return net->api->loop_add(rx->loop, rx->fd, WATCH, on_fd, rx); /* which reports what is there */
  net->api->loop_del(rx->loop, rx->fd);
  return 0;
}

void rx_stop(struct rx *rx) {
  if (!rx->queue) return;
  const struct vmm_api *api = rx->net->api;
  if (atomic_exchange(&rx->enabled, false)) api->loop_del(rx->loop, rx->fd);
  if (rx->net->limited) api->loop_del(rx->loop, rx->timer);
  if (rx->partial) __atomic_fetch_add(rx->dropped, 1, __ATOMIC_RELAXED);
  rx->partial = 0;
  put_back(rx);
  rx->queue = NULL;
}

void rx_finish(struct rx *rx) {
  if (rx->net->mode != NET_STREAM || rx->gone || !rx->buffer) return;
  while (rx->from < rx->to) { /* whole frames are dropped, a broken one is read to its end */
    uint32_t have = rx->to - rx->from, len = stream_frame(rx);
    if (len > NET_FRAME_MAX) break;
    if (have >= 4 && have - 4 >= len) {
      rx->from += 4 + len;
      continue;
    }
    uint32_t missing = (have < 4 ? 4 : 4 + len) - have;
    if (rx->from) memmove(rx->buffer, rx->buffer + rx->from, have);
    rx->from = 0, rx->to = have;
    ssize_t n = net_patience(rx->fd, POLLIN) ? recv(rx->fd, rx->buffer + rx->to, missing, MSG_DONTWAIT) : -1;
    if (n <= 0) {
      shutdown(rx->fd, SHUT_RDWR); /* nobody can find the next frame any more */
      break;
    }
    rx->to += (uint32_t)n;
  }
}
