/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmmuart.h - the place of a serial port in the machine, whatever chip it is: its registers on the bus, the byte stream
 * of the host, a lock, and when input flows. Header only; the chip is a state machine without threads (struct
 * vmm_uart_chip), the interrupt line its owner's. See plugins/serial and plugins/pl011.
 */
#ifndef VMMUART_H
#define VMMUART_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

#include "vmmcore.h"

struct vmm_uart_counters {
  uint64_t rx_bytes, tx_bytes, rx_overruns, tx_overruns, interrupts;
};

/* Called with the lock held. */
struct vmm_uart_chip {
  /* Bytes from the host; returns how many fitted. */
  size_t (*receive)(void *chip, const uint8_t *data, size_t len);
  /* Whether the host may send more. */
  bool (*wants_input)(const void *chip);
  /* Offer the bytes that wait in the transmitter to the host again. */
  void (*drain)(void *chip);
};

struct vmm_uart {
  const struct vmm_api *api;
  vmm_vm *vm;
  vmm_chardev *host; /* NULL: nobody listens, output is dropped */
  int space;
  uint64_t base;
  bool mapped;
  const struct vmm_uart_chip *ops;
  void *chip;

  pthread_mutex_t lock; /* guards the chip and all below */
  bool paused;
  bool starved; /* the host holds input back until chardev_kick() */
};

static inline void vmm_uart_lock(struct vmm_uart *u) {
  pthread_mutex_lock(&u->lock);
}

/* After anything that may have changed the flow. */
static inline void vmm_uart_unlock(struct vmm_uart *u) {
  bool kick = u->starved && !u->paused && u->ops->wants_input(u->chip);
  if (kick) u->starved = false;
  pthread_mutex_unlock(&u->lock);
  if (kick) u->api->chardev_kick(u->host);
}

/* The chip has bytes for the host; returns how many it took. Lock held. */
static inline size_t vmm_uart_transmit(struct vmm_uart *u, const uint8_t *data, size_t len) {
  return u->host ? u->api->chardev_write(u->host, data, len) : len;
}

/* Loop thread: input from the host, or (no data) room again for what waits in the transmitter. */
static inline size_t vmm_uart_on_host(void *opaque, const uint8_t *data, size_t len) {
  struct vmm_uart *u = opaque;
  pthread_mutex_lock(&u->lock);
  if (!data && !u->paused) u->ops->drain(u->chip);
  size_t taken = u->paused || !data ? 0 : u->ops->receive(u->chip, data, len);
  if (taken < len) u->starved = true;
  pthread_mutex_unlock(&u->lock);
  return taken;
}

/* A paused port, with the host's side open: `in_fd`, `out_fd` (-1: none) and `flags` as for chardev_open(), closed on
 * failure too. vmm_uart_close() afterwards, whatever this returns (0 or -errno). */
static inline int vmm_uart_open(struct vmm_uart *u, const struct vmm_api *api, vmm_vm *vm,
                                const struct vmm_uart_chip *ops, void *chip, int in_fd, int out_fd, uint32_t flags) {
  *u = (struct vmm_uart){.api = api, .vm = vm, .ops = ops, .chip = chip, .paused = true};
  pthread_mutex_init(&u->lock, NULL);
  if (in_fd < 0 && out_fd < 0) return 0;
  u->host = api->chardev_open(vm, in_fd, out_fd, flags, vmm_uart_on_host, u);
  u->starved = in_fd >= 0; /* input flows from the first kick on */
  return u->host ? 0 : -EIO;
}

/* Put the registers on the bus: 0 or -errno. */
static inline int vmm_uart_map(struct vmm_uart *u, int space, uint64_t base, uint64_t len, vmm_io_fn fn,
                               void *opaque) {
  u->space = space;
  u->base = base;
  int status = u->api->bus_add(u->vm, space, base, len, fn, opaque);
  u->mapped = status >= 0;
  return status;
}

/* From any thread but a vCPU's. The interrupt line must still be there. */
static inline void vmm_uart_close(struct vmm_uart *u) {
  if (u->mapped) u->api->bus_del(u->vm, u->space, u->base);
  if (u->host) {
    pthread_mutex_lock(&u->lock);
    if (!u->paused) u->ops->drain(u->chip); /* the last words; a paused guest says them elsewhere */
    pthread_mutex_unlock(&u->lock);
    u->api->chardev_close(u->host);
  }
  pthread_mutex_destroy(&u->lock);
}

/* A paused port takes no more input, so that a snapshot loses none. */
static inline void vmm_uart_pause(struct vmm_uart *u, bool paused) {
  pthread_mutex_lock(&u->lock);
  u->paused = paused;
  if (!paused) u->ops->drain(u->chip);
  vmm_uart_unlock(u);
}

/* The descriptors of a port that cannot even be opened. */
static inline void vmm_uart_close_fds(int in_fd, int out_fd) {
  if (in_fd >= 0) close(in_fd);
  if (out_fd >= 0 && out_fd != in_fd) close(out_fd);
}

#endif
