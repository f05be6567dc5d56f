/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the guest to the host (virtio 1.2 §5.1.6.2): each frame is written straight from guest memory, with the
 * guest's header if the host side is a TAP, which checks it. To a stream go many frames in one call.
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
  WATCH = EPOLLOUT | EPOLLET,
  FLUSH = 64,  /* frames until the guest gets their buffers back, at the latest */
  GATHER = 64, /* frames in one call */
};

enum step { MORE, EMPTY, BLOCKED, HELD };

static void count(struct tx *tx, uint64_t frames, uint64_t bytes) {
  __atomic_fetch_add(tx->frames, frames, __ATOMIC_RELAXED);
  __atomic_fetch_add(tx->bytes, bytes, __ATOMIC_RELAXED);
}

static void drop(struct tx *tx, const struct vmm_chain *chain) {
  tx->net->api->queue_push(tx->queue, chain, tx->iov, 0);
  __atomic_fetch_add(tx->dropped, 1, __ATOMIC_RELAXED);
}

static void gone(struct tx *tx) {
  tx->gone = true;
  tx->net->api->log(tx->net->vm, 4, "%s: the host side has closed; what the guest sends is dropped", tx->net->id);
}

/* The next frame behind its header. MORE; or EMPTY; or HELD by the rate limit. */
static enum step next(struct tx *tx, struct vmm_chain *chain, struct iovec *iov, uint32_t cap) {
  const struct vmm_api *api = tx->net->api;
  if (api->queue_pop(tx->queue, chain, iov, cap) <= 0) return EMPTY;
  if (!tx->net->limited) return MORE;
  uint64_t len = chain->out_len > NET_HDR ? chain->out_len - NET_HDR : 0;
  uint64_t ns = vmm_limiter_take(&tx->limit, len, api->now_ns());
  if (!ns) return MORE;
  api->queue_unpop(tx->queue, chain);
  tx->held = true;
  net_timer(tx->timer, ns);
  return HELD;
}

/* What a host side cannot be asked to take. */
static bool impossible(const struct vmm_chain *chain) {
  return chain->out_len <= NET_HDR || chain->out_len > NET_HDR + NET_FRAME_MAX || chain->n_out >= NET_MAX_IOV;
}

/* Take the header off the front of the pieces. */
static void skip_header(struct iovec *iov) {
  for (size_t left = NET_HDR; left; iov++) {
    size_t n = iov->iov_len < left ? iov->iov_len : left;
    iov->iov_base = (uint8_t *)iov->iov_base + n;
    iov->iov_len -= n;
    left -= n;
  }
}

static enum step to_tap(struct tx *tx, uint32_t *frames) {
  const struct vmm_api *api = tx->net->api;
  uint64_t sent = 0, bytes = 0;
  enum step step = MORE;
  for (; *frames < FLUSH; ++*frames) {
    struct vmm_chain chain;
    step = next(tx, &chain, tx->iov, tx->cap);
    if (step != MORE) break;
    if (impossible(&chain)) {
      drop(tx, &chain);
      continue;
    }
    ssize_t n;
    do n = writev(tx->fd, tx->iov, (int)chain.n_out);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
      if (errno == EAGAIN) {
        api->queue_unpop(tx->queue, &chain);
        step = BLOCKED;
        break;
      }
      drop(tx, &chain); /* a header that the kernel refuses, or an interface that is down or gone */
      continue;
    }
    api->queue_push(tx->queue, &chain, tx->iov, 0);
    sent++;
    bytes += chain.out_len - NET_HDR;
  }
  if (sent) count(tx, sent, bytes);
  return step;
}

static enum step to_packet(struct tx *tx, uint32_t *frames) {
  const struct vmm_api *api = tx->net->api;
  struct vmm_chain chain;
  enum step step = next(tx, &chain, tx->iov, tx->cap);
  if (step != MORE) return step;
  *frames = 1;
  if (impossible(&chain) || tx->gone) {
    drop(tx, &chain);
    return MORE;
  }
  skip_header(tx->iov);
  struct msghdr message = {.msg_iov = tx->iov, .msg_iovlen = chain.n_out};
  ssize_t n;
  do n = sendmsg(tx->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) {
    api->queue_unpop(tx->queue, &chain);
    return BLOCKED;
  }
  if (n < 0) {
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) gone(tx);
    drop(tx, &chain);
    return MORE;
  }
  api->queue_push(tx->queue, &chain, tx->iov, 0);
  count(tx, 1, chain.out_len - NET_HDR);
  return MORE;
}

/* Send what is left of a frame. False: the socket is full. */
static bool send_rest(struct tx *tx) {
  while (tx->rest_from < tx->rest_to) {
    ssize_t n = send(tx->fd, tx->rest + tx->rest_from, tx->rest_to - tx->rest_from, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return false;
    if (n < 0) {
      gone(tx);
      tx->rest_from = tx->rest_to;
      break;
    }
    tx->rest_from += (uint32_t)n;
  }
  tx->rest_from = tx->rest_to = 0;
  return true;
}

struct gathered {
  struct vmm_chain chain;
  uint32_t first, pieces; /* in tx->iov, the length's included */
  uint8_t length[4];
};

/* Of the pieces at `iov`, keep what is behind the first `sent` bytes. */
static void keep_rest(struct tx *tx, const struct iovec *iov, uint32_t pieces, size_t sent) {
  for (uint32_t i = 0; i < pieces; i++) {
    size_t skip = iov[i].iov_len < sent ? iov[i].iov_len : sent;
    memcpy(tx->rest + tx->rest_to, (const uint8_t *)iov[i].iov_base + skip, iov[i].iov_len - skip);
    tx->rest_to += (uint32_t)(iov[i].iov_len - skip);
    sent -= skip;
  }
}

static enum step to_stream(struct tx *tx, uint32_t *frames) {
  const struct vmm_api *api = tx->net->api;
  struct gathered all[GATHER];
  uint32_t n = 0, pieces = 0;
  enum step step = MORE;
  if (!send_rest(tx)) return BLOCKED;
  while (n < GATHER && *frames < GATHER && pieces < NET_MAX_IOV / 2) {
    struct gathered *g = &all[n];
    step = next(tx, &g->chain, tx->iov + pieces + 1, tx->cap - pieces - 1);
    if (step != MORE) break;
    ++*frames;
    if (impossible(&g->chain) || tx->gone) {
      drop(tx, &g->chain);
      continue;
    }
    if (pieces + 1 + g->chain.n_out > NET_MAX_IOV) { /* alone next time: impossible() has seen that it fits then */
      api->queue_unpop(tx->queue, &g->chain);
      --*frames;
      break;
    }
    uint32_t len = (uint32_t)g->chain.out_len - NET_HDR;
    g->length[0] = (uint8_t)(len >> 24), g->length[1] = (uint8_t)(len >> 16);
    g->length[2] = (uint8_t)(len >> 8), g->length[3] = (uint8_t)len;
    tx->iov[pieces] = (struct iovec){g->length, 4};
    skip_header(tx->iov + pieces + 1);
    g->first = pieces, g->pieces = 1 + g->chain.n_out;
    pieces += g->pieces;
    n++;
  }
  if (!n) return step;
  struct msghdr message = {.msg_iov = tx->iov, .msg_iovlen = pieces};
  ssize_t sent;
  do sent = sendmsg(tx->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0 && errno != EAGAIN) gone(tx);
  uint32_t i = 0;
  uint64_t bytes = 0;
  for (; i < n; i++) {
    struct gathered *g = &all[i];
    if (tx->gone) {
      drop(tx, &g->chain);
      continue;
    }
    ssize_t whole = (ssize_t)(g->chain.out_len - NET_HDR + 4);
    if (sent <= 0) break;
    if (sent < whole) keep_rest(tx, tx->iov + g->first, g->pieces, (size_t)sent);
    sent -= whole;
    api->queue_push(tx->queue, &g->chain, tx->iov, 0);
    bytes += (uint64_t)whole - 4;
  }
  if (bytes) count(tx, i, bytes);
  if (i == n) return tx->rest_to ? BLOCKED : step;
  for (uint32_t back = n; back > i; back--) api->queue_unpop(tx->queue, &all[back - 1].chain);
  return BLOCKED;
}

static void run(struct tx *tx) {
  struct net *net = tx->net;
  const struct vmm_api *api = net->api;
  if (tx->blocked || tx->held) return;
  uint32_t total = 0;
  enum step step = MORE;
  api->queue_quiet(tx->queue);
  while (total < NET_BUDGET) {
    uint32_t frames = 0;
    step = net->mode == NET_TAP      ? to_tap(tx, &frames)
           : net->mode == NET_PACKET ? to_packet(tx, &frames)
                                     : to_stream(tx, &frames);
    total += frames ? frames : 1;
    if (net->mode != NET_PACKET || step != MORE || total % FLUSH == 0) api->queue_flush(tx->queue);
    if (step == EMPTY && api->queue_wait(tx->queue)) {
      api->queue_quiet(tx->queue);
      step = MORE;
    }
    if (step != MORE) break;
  }
  if (step == BLOCKED) tx->blocked = true;
  if (step == MORE || step == BLOCKED) {
    api->queue_flush(tx->queue);
    api->loop_mod(tx->loop, tx->fd, WATCH); /* reports the fd again, now or when there is room */
  }
}

static void on_fd(void *opaque, int fd, uint32_t events) {
  struct tx *tx = opaque;
  (void)fd, (void)events;
  tx->blocked = false;
  run(tx);
}

static void on_kick(void *opaque, vmm_queue *queue) {
  (void)queue;
  run(opaque);
}

static void on_timer(void *opaque, int fd, uint32_t events) {
  struct tx *tx = opaque;
  (void)events;
  net_timer_clear(fd);
  tx->held = false;
  run(tx);
}

int tx_start(struct tx *tx, vmm_queue *queue) {
  struct net *net = tx->net;
  const struct vmm_api *api = net->api;
  tx->cap = api->queue_size(queue) + NET_PIECES;
  if (net->mode == NET_STREAM) tx->cap += NET_MAX_IOV / 2 + 1; /* frames gathered, and one request behind them */
  free(tx->iov);
  tx->iov = calloc(tx->cap, sizeof *tx->iov);
  if (net->mode == NET_STREAM && !tx->rest) tx->rest = malloc(NET_FRAME_MAX + 4);
  if (!tx->iov || (net->mode == NET_STREAM && !tx->rest)) return -ENOMEM;
  tx->blocked = tx->held = false;
  tx->loop = api->queue_loop(queue);
  tx->queue = queue;
  int err = net->limited ? api->loop_add(tx->loop, tx->timer, EPOLLIN, on_timer, tx) : 0;
  if (!err) err = api->loop_add(tx->loop, tx->fd, WATCH, on_fd, tx);
  if (!err) err = api->queue_handle(queue, on_kick, tx);
  return err;
}

void tx_stop(struct tx *tx) {
  if (!tx->queue) return;
  const struct vmm_api *api = tx->net->api;
  api->loop_del(tx->loop, tx->fd);
  if (tx->net->limited) api->loop_del(tx->loop, tx->timer);
  tx->queue = NULL;
}

void tx_finish(struct tx *tx) {
  if (tx->net->mode != NET_STREAM || tx->gone) return;
  while (!send_rest(tx))
    if (!net_patience(tx->fd, POLLOUT)) {
      shutdown(tx->fd, SHUT_RDWR); /* the other side would take what comes next for the frame's end */
      return;
    }
}
