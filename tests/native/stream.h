/* SPDX-License-Identifier: Apache-2.0 */
/* The device end of a chardev: takes as many bytes as it has room for, and remembers them. */
#ifndef STREAM_H
#define STREAM_H

#include "harness.h"

struct device {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  uint8_t got[8192];
  _Atomic size_t n;
  size_t room;
  _Atomic unsigned calls, notes; /* notes: rx(NULL, 0), "the output has drained" */
};

#define DEVICE(space) {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .room = (space)}

static inline size_t device_rx(void *opaque, const uint8_t *data, size_t len) {
  struct device *d = opaque;
  pthread_mutex_lock(&d->lock);
  size_t n = 0;
  if (!data) {
    d->notes++;
  } else {
    d->calls++;
    n = len < d->room ? len : d->room;
    CHECK(d->n + n <= sizeof d->got);
    memcpy(d->got + d->n, data, n);
    d->n += n;
    d->room -= n;
  }
  pthread_cond_broadcast(&d->changed);
  pthread_mutex_unlock(&d->lock);
  return n;
}

static inline void device_wait(struct device *d, size_t n, unsigned calls, unsigned notes) {
  pthread_mutex_lock(&d->lock);
  while (d->n < n || d->calls < calls || d->notes < notes) pthread_cond_wait(&d->changed, &d->lock);
  pthread_mutex_unlock(&d->lock);
}

static inline void device_room(struct device *d, size_t room) {
  pthread_mutex_lock(&d->lock);
  d->room += room;
  pthread_mutex_unlock(&d->lock);
}

#define GOT(d, text)                                                                          \
  do {                                                                                        \
    device_wait(d, sizeof(text) - 1, 0, 0);                                                   \
    pthread_mutex_lock(&(d)->lock);                                                           \
    if ((d)->n != sizeof(text) - 1 || memcmp((d)->got, text, sizeof(text) - 1))               \
      test_fail(__FILE__, __LINE__, (char *)(d)->got);                                        \
    (d)->n = 0;                                                                               \
    pthread_mutex_unlock(&(d)->lock);                                                         \
  } while (0)

/* All of `len` bytes from a blocking fd. */
static inline void read_all(int fd, void *buf, size_t len) {
  for (size_t at = 0; at < len;) {
    ssize_t n = read(fd, (char *)buf + at, len - at);
    CHECK(n > 0 || (n < 0 && errno == EINTR));
    if (n > 0) at += (size_t)n;
  }
}

static inline size_t put_text(vmm_chardev *d, const char *text) {
  return vmm_chardev_write(d, (const uint8_t *)text, strlen(text));
}

#endif
