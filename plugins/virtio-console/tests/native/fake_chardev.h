/* SPDX-License-Identifier: Apache-2.0 */
/* A chardev of the core that the test is the other end of: it has the room and the input that the test gives it. */
#ifndef FAKE_CHARDEV_H
#define FAKE_CHARDEV_H

#include "fake_core.h"

struct vmm_chardev {
  pthread_mutex_t lock;
  int in_fd, out_fd;
  uint32_t flags;
  vmm_rx_fn rx;
  void *opaque;
  size_t room, sent_len, in_len, in_at;
  uint8_t sent[1 << 20], in[1 << 16];
  bool open, was_full;
  unsigned kicks;
};

static struct vmm_chardev fake_chardevs[4];
static unsigned fake_n_chardevs;
static bool fake_chardev_fails;

static vmm_chardev *fake_chardev_open(vmm_vm *vm, int in_fd, int out_fd, uint32_t flags, vmm_rx_fn rx, void *opaque) {
  (void)vm;
  CHECK(fake_n_chardevs < 4);
  if (fake_chardev_fails) {
    if (in_fd >= 0) close(in_fd);
    if (out_fd >= 0 && out_fd != in_fd) close(out_fd);
    return NULL;
  }
  vmm_chardev *d = &fake_chardevs[fake_n_chardevs++];
  memset(d, 0, sizeof *d);
  pthread_mutex_init(&d->lock, NULL);
  d->in_fd = in_fd, d->out_fd = out_fd, d->flags = flags, d->rx = rx, d->opaque = opaque;
  d->room = sizeof d->sent;
  d->open = true;
  return d;
}

static size_t fake_chardev_write(vmm_chardev *d, const uint8_t *data, size_t len) {
  pthread_mutex_lock(&d->lock);
  CHECK(d->open);
  size_t n = len < d->room ? len : d->room;
  CHECK(n <= sizeof d->sent - d->sent_len);
  memcpy(d->sent + d->sent_len, data, n);
  d->sent_len += n;
  d->room -= n;
  if (n < len) d->was_full = true;
  pthread_mutex_unlock(&d->lock);
  return n;
}

static size_t fake_chardev_room(vmm_chardev *d) {
  pthread_mutex_lock(&d->lock);
  size_t room = d->room;
  if (!room) d->was_full = true;
  pthread_mutex_unlock(&d->lock);
  return room;
}

static void fake_chardev_kick(vmm_chardev *d) {
  __atomic_add_fetch(&d->kicks, 1, __ATOMIC_SEQ_CST);
}

static void fake_chardev_close(vmm_chardev *d) {
  CHECK(d->open);
  d->open = false;
  if (d->in_fd >= 0) close(d->in_fd);
  if (d->out_fd >= 0 && d->out_fd != d->in_fd) close(d->out_fd);
}

/* The host takes `n` more bytes. */
static inline void chardev_make_room(vmm_chardev *d, size_t n) {
  pthread_mutex_lock(&d->lock);
  d->room = n;
  bool note = d->was_full && n;
  if (note) d->was_full = false;
  pthread_mutex_unlock(&d->lock);
  if (note) d->rx(d->opaque, NULL, 0);
}

/* Somebody types. Call chardev_pump() now and then: input flows after a kick only, as the core has it. */
static inline void chardev_type(vmm_chardev *d, const void *data, size_t n) {
  CHECK(d->in_len + n <= sizeof d->in);
  memcpy(d->in + d->in_len, data, n);
  d->in_len += n;
}

static inline void chardev_pump(vmm_chardev *d) {
  if (!__atomic_exchange_n(&d->kicks, 0, __ATOMIC_SEQ_CST)) return;
  while (d->in_at < d->in_len) {
    size_t n = d->in_len - d->in_at < 300 ? d->in_len - d->in_at : 300, took = d->rx(d->opaque, d->in + d->in_at, n);
    d->in_at += took;
    if (took < n) return;
  }
  __atomic_add_fetch(&d->kicks, 1, __ATOMIC_SEQ_CST); /* it stays open for more */
}

static inline void fake_chardev_begin(void) {
  fake_n_chardevs = 0;
  fake_chardev_fails = false;
  fake_api.chardev_open = fake_chardev_open;
  fake_api.chardev_write = fake_chardev_write;
  fake_api.chardev_room = fake_chardev_room;
  fake_api.chardev_kick = fake_chardev_kick;
  fake_api.chardev_close = fake_chardev_close;
}

#endif
