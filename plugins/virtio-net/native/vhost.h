/* SPDX-License-Identifier: Apache-2.0 */
/* vhost-net (linux/vhost.h): the kernel drives the queues. All return 0 or a positive result, else -errno. */
#ifndef NET_VHOST_H
#define NET_VHOST_H

#include <stdint.h>

struct vhost_queue {
  uint32_t index; /* 0: receive, 1: transmit */
  uint32_t size;
  uint32_t base;
  uint64_t desc, driver, device; /* guest-physical */
  int kick_fd, call_fd;
};

/* Feature bits of the kernel's half; *features is set. */
int vhost_features(int fd, uint64_t *features);
/* Take `fd` for this process, tell it memory (pairs of address and size) and the features accepted. */
int vhost_start(int fd, const void *api, void *vm, uint64_t features, uint32_t regions, const uint64_t *memory);
/* Give it a queue. */
int vhost_queue(int fd, const void *api, void *vm, const struct vhost_queue *queue);
/* Let queue `index` run on a TAP's fd; -1: stop it, after which nothing touches guest memory. */
int vhost_backend(int fd, uint32_t index, int tap_fd);
/* Where a stopped queue is; its eventfds are let go. */
int vhost_base(int fd, uint32_t index);

#endif
