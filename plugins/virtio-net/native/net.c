/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "plane.h"

/* --- the host's side ------------------------------------------------------------ */

int net_tap_header(int fd, int size) {
  return ioctl(fd, TUNSETVNETHDRSZ, &size) < 0 ? -errno : 0;
}

int net_tap_offload(int fd, uint32_t flags) {
  return ioctl(fd, TUNSETOFFLOAD, (unsigned long)flags) < 0 ? -errno : 0;
}

int net_tap_attach(int fd, int attached) {
  struct ifreq ifr = {0};
  ifr.ifr_flags = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
  return ioctl(fd, TUNSETQUEUE, &ifr) < 0 ? -errno : 0;
}

int net_tap_filter(int fd, int all_multicast, uint32_t count, const uint8_t *addresses) {
  if (count > 4096) return -EINVAL;
  struct tun_filter *filter = calloc(1, sizeof *filter + (size_t)count * ETH_ALEN);
  if (!filter) return -ENOMEM;
  filter->flags = all_multicast ? TUN_FLT_ALLMULTI : 0;
  filter->count = (uint16_t)count;
  memcpy(filter->addr, addresses, (size_t)count * ETH_ALEN);
  int err = ioctl(fd, TUNSETTXFILTER, filter) < 0 ? -errno : 0;
  free(filter);
  return err;
}

void net_timer(int timer, uint64_t ns) {
  struct itimerspec when = {.it_value = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)}};
  timerfd_settime(timer, 0, &when, NULL);
}

void net_timer_clear(int timer) {
  uint64_t expired;
  (void)!read(timer, &expired, sizeof expired);
}

bool net_patience(int fd, short events) {
  struct pollfd p = {fd, events, 0};
  return poll(&p, 1, 1000) == 1 && p.revents & events;
}

/* --- life ------------------------------------------------------------------------ */

struct net *net_new(const void *api, void *vm, const char *id, int mode, uint32_t pairs, const int *fds, int *error) {
  *error = -ENOTSUP;
  if (vmm_api_check(api, 1)) return NULL;
  *error = -EINVAL;
  if (!pairs || mode < NET_TAP || mode > NET_STREAM || (mode != NET_TAP && pairs > 1)) return NULL;
  *error = -ENOMEM;
  struct net *net = calloc(1, sizeof *net);
  if (!net) return NULL;
  net->api = api, net->vm = vm, net->mode = mode, net->pairs = pairs;
  snprintf(net->id, sizeof net->id, "%s", id);
  net->rx = calloc(pairs, sizeof *net->rx);
  net->tx = calloc(pairs, sizeof *net->tx);
  const char *names[] = {"rx_bytes", "rx_frames", "rx_dropped", "tx_bytes", "tx_frames", "tx_dropped"};
  uint64_t *counters[6];
  bool ok = net->rx && net->tx;
  for (unsigned i = 0; i < 6; i++) ok &= !!(counters[i] = net->api->counter(vm, id, names[i]));
  for (uint32_t i = 0; ok && i < pairs; i++)
    net->tx[i].fd = net->tx[i].timer = net->rx[i].timer = -1; /* net_free() may look */
  for (uint32_t i = 0; ok && i < pairs; i++) {
    struct rx *rx = &net->rx[i];
    struct tx *tx = &net->tx[i];
    rx->net = tx->net = net;
    rx->fd = fds[i];
    rx->bytes = counters[0], rx->frames = counters[1], rx->dropped = counters[2];
    tx->bytes = counters[3], tx->frames = counters[4], tx->dropped = counters[5];
    tx->fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
    if (tx->fd < 0) *error = -errno, ok = false;
  }
  if (ok) return net;
  net_free(net);
  return NULL;
}

void net_free(struct net *net) {
  if (!net) return;
  for (uint32_t i = 0; net->rx && net->tx && i < net->pairs; i++) {
    struct rx *rx = &net->rx[i];
    struct tx *tx = &net->tx[i];
    if (!rx->net) continue;
    tx_finish(tx);
    rx_finish(rx);
    if (tx->fd >= 0) close(tx->fd);
    if (tx->timer >= 0) close(tx->timer);
    if (rx->timer >= 0) close(rx->timer);
    free(rx->iov);
    free(rx->chains);
    free(rx->buffer);
    free(tx->iov);
    free(tx->rest);
  }
  free(net->rx);
  free(net->tx);
  free(net);
}

int net_limit(struct net *net, uint64_t bw_size, uint64_t bw_burst, uint64_t bw_refill_ms, uint64_t ops_size,
              uint64_t ops_burst, uint64_t ops_refill_ms) {
  uint64_t now = net->api->now_ns();
  net->limited = bw_size || ops_size;
  for (uint32_t i = 0; net->limited && i < net->pairs; i++) {
    struct vmm_limiter *limits[] = {&net->rx[i].limit, &net->tx[i].limit};
    int *timers[] = {&net->rx[i].timer, &net->tx[i].timer};
    for (unsigned n = 0; n < 2; n++) {
      vmm_bucket_init(&limits[n]->bytes, bw_size, bw_burst, bw_refill_ms, now);
      vmm_bucket_init(&limits[n]->ops, ops_size, ops_burst, ops_refill_ms, now);
      if (*timers[n] < 0) *timers[n] = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
      if (*timers[n] < 0) return -errno;
    }
  }
  return 0;
}

int net_start(struct net *net, uint32_t pair, uintptr_t rx_queue, uintptr_t tx_queue, int enabled) {
  if (pair >= net->pairs) return -EINVAL;
  int err = 0;
  if (rx_queue) err = rx_start(&net->rx[pair], (vmm_queue *)rx_queue, enabled);
  if (!err && tx_queue) err = tx_start(&net->tx[pair], (vmm_queue *)tx_queue);
  return err;
}

int net_enable(struct net *net, uint32_t pair, int enabled) {
  return pair < net->pairs ? rx_enable(&net->rx[pair], enabled) : -EINVAL;
}

void net_stop(struct net *net) {
  for (uint32_t i = 0; i < net->pairs; i++) {
    tx_stop(&net->tx[i]);
    rx_stop(&net->rx[i]);
  }
}
