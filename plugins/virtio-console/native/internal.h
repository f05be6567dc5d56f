/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the data plane share. */
#ifndef CONSOLE_INTERNAL_H
#define CONSOLE_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#include "console.h"
#include "vmmcore.h"

/* What became of a request. */
enum verdict {
  DONE,  /* give it back */
  WAIT,  /* put it back: somebody will call lane_wake() */
  AGAIN, /* put it back and come again when others had their turn */
};

struct port;

/* A virtqueue and what it is for. serve() runs on the queue's loop only. */
struct lane {
  struct console *c;
  struct port *port; /* NULL: a control queue */
  enum verdict (*serve)(struct lane *lane, const struct vmm_chain *chain, const struct iovec *iov, uint32_t *written);
  int wake_fd;

  vmm_queue *queue; /* NULL: not running */
  vmm_loop *loop;
  struct iovec *iov;
  uint32_t cap;
};

/* Messages for the driver that wait for a buffer, as bits: whatever a driver does, there is one of each kind. */
enum { TODO_ADD = 1, TODO_CONSOLE = 2, TODO_RESIZE = 4, TODO_NAME = 8, TODO_OPEN = 16, TODO_ALL = 31 };

struct port {
  struct console *c;
  uint32_t id;
  char *name;
  struct lane rx, tx; /* as the driver sees it: rx is what the guest receives */
  uint64_t tx_done;   /* tx's loop only */

  /* under c->lock */
  bool ready, guest_open;
  uint8_t todo;
  bool hungry;   /* the guest has a buffer for input, and there was none */
  bool tx_stuck; /* output waits for a client */

  vmm_chardev *chardev; /* or */
  bool starved;         /* it holds input back until chardev_kick() */
  uint8_t in[CONSOLE_INPUT];
  uint32_t in_len;

  int listen_fd, client_fd; /* -1: none */
  bool client_dead;         /* to be closed by the loop */
  bool client_silent;       /* it has sent all that it will */
};

struct console {
  const struct vmm_api *api;
  vmm_vm *vm;
  vmm_loop *loop;                              /* of the host's fds */
  uint64_t *rx_bytes, *tx_bytes, *tx_dropped; /* counters */
  struct lane control_rx, control_tx;
  uint32_t n_ports;
  struct port *ports;
  bool legacy_size;
  pthread_mutex_t lock;
  bool running, multiport; /* written while no lane runs, so that lanes need no lock to read them */
  int size_fd;   /* the terminal; -1: none */
  int winch_fd;  /* a signalfd */
  int notice_fd; /* tells that the size has changed */
  int chore_fd;  /* has the loop close clients */
  uint16_t cols, rows;
};

/* console.c */
void lane_wake(struct lane *lane);
void console_count(uint64_t *counter, uint64_t n);

/* control.c; console_todo() with c->lock held */
enum verdict control_receive(struct lane *lane, const struct vmm_chain *chain, const struct iovec *iov, uint32_t *written);
enum verdict control_transmit(struct lane *lane, const struct vmm_chain *chain, const struct iovec *iov,
                              uint32_t *written);
void console_todo(struct port *port, uint8_t todo);

/* stream.c */
int stream_open(struct port *port, const struct console_port *config);
void stream_close(struct port *port);
/* Bytes that were taken (or dropped, if nobody listens); fewer than `len`: the lane is woken when there is room. */
size_t stream_write(struct port *port, const uint8_t *data, size_t len);
/* Bytes of input, 0: none now, the lane is woken when there are. With c->lock held. */
size_t stream_read(struct port *port, const struct iovec *iov, uint32_t n);
bool stream_is_open(const struct port *port); /* with c->lock held */
void stream_call(struct console *c);   /* has the loop do: */
void stream_chores(struct console *c); /* close clients that are no longer needed */
void console_check_size(struct console *c);

#endif
