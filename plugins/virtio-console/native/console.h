/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data plane of the console device (virtio 1.2 §5.3): virtqueues on one side, streams of the host on the other.
 *
 * console.c   queues, life cycle, saved state
 * control.c   the control queues: ports announced, opened, named, resized
 * stream.c    a port's host side: a core chardev, or a listening socket with one client
 */
#ifndef CONSOLE_H
#define CONSOLE_H

#include <stdint.h>

/* Feature bits (§5.3.3) */
#define CONSOLE_F_SIZE 1u
#define CONSOLE_F_MULTIPORT 2u

enum {
  CONSOLE_MAX_PORTS = 32,
  CONSOLE_INPUT = 1024,      /* bytes of input that a port holds while they move to the queue */
  CONSOLE_TERMINAL = 1 << 16 /* flag of a port: a terminal, whose size the guest hears of */
};

struct console;

/* Host side of a port. No fd at all (all -1): output goes nowhere. The fds are taken over. */
struct console_port {
  const char *name;          /* NULL: none */
  int in_fd, out_fd;         /* for chardev_open(), or */
  int listen_fd;             /* a listening stream socket */
  uint32_t flags;            /* VMM_CHARDEV_*, CONSOLE_TERMINAL */
};

/* All that a snapshot keeps of a port. */
struct console_port_state {
  uint8_t ready, guest_open, todo;
  uint64_t tx_done; /* bytes of the oldest request that are out */
  uint32_t in_len;
  uint8_t in[CONSOLE_INPUT];
};

/* NULL and *error = -errno on failure; the fds are closed then as well. */
struct console *console_new(const void *api, void *vm, const char *id, const struct console_port *ports, uint32_t n,
                            int legacy_size, int *error);
/* Serve the queues (vmm_queue *, in the order of §5.3.2, NULL: not there) until console_stop(). fresh[i]: the driver
 * has set queue i up anew, so that nothing that was said or half done there counts any more. 0 or -errno. */
int console_start(struct console *console, void *const *queues, const uint8_t *fresh, uint32_t n, uint64_t features);
void console_stop(struct console *console);
void console_free(struct console *console);

/* An eventfd that is readable once the terminal's size has changed. */
int console_notice_fd(struct console *console);
/* The terminal's size in characters; 0: port 0 is no terminal. */
int console_size(struct console *console, uint16_t *cols, uint16_t *rows);

/* While it is stopped. */
void console_save(struct console *console, uint32_t port, struct console_port_state *state);
/* 0, or -EINVAL and no change. */
int console_restore(struct console *console, uint32_t port, const struct console_port_state *state);

#endif
