/* SPDX-License-Identifier: Apache-2.0 */
/* Control messages of a device with several ports (virtio 1.2 §5.3.6.2). What is malformed is ignored. */
#include "internal.h"

#include <string.h>

enum { DEVICE_READY, DEVICE_ADD, DEVICE_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME };
enum { HEADER = 8, LONGEST = HEADER + 256 };

void console_todo(struct port *port, uint8_t todo) {
  port->todo |= todo;
  if (port->c->multiport) lane_wake(&port->c->control_rx);
}

/* --- to the driver --- */

/* The next message that waits, into `m`; its length, 0: there is none. With c->lock held. */
static uint32_t next_message(struct console *c, uint8_t m[LONGEST]) {
  struct port *port = c->ports;
  while (port < c->ports + c->n_ports && !port->todo) port++;
  if (port == c->ports + c->n_ports) return 0;
  uint8_t todo = port->todo & (uint8_t)-port->todo; /* the lowest bit: the order in which drivers want to hear */
  port->todo &= (uint8_t)~todo;
  uint32_t len = HEADER;
  uint16_t event = 0, value = 1;
  switch (todo) {
    case TODO_ADD: event = DEVICE_ADD; break;
    case TODO_CONSOLE: event = CONSOLE_PORT; break;
    case TODO_RESIZE:
      event = RESIZE;
      value = 0;
      vmm_store(m + HEADER, 2, c->legacy_size ? c->rows : c->cols);
      vmm_store(m + HEADER + 2, 2, c->legacy_size ? c->cols : c->rows);
      len += 4;
      break;
    case TODO_NAME:
      event = PORT_NAME;
      len += (uint32_t)strnlen(port->name, LONGEST - HEADER);
      memcpy(m + HEADER, port->name, len - HEADER);
      break;
    case TODO_OPEN:
      event = PORT_OPEN;
      value = stream_is_open(port);
      break;
  }
  vmm_store(m, 4, port->id);
  vmm_store(m + 4, 2, event);
  vmm_store(m + 6, 2, value);
  return len;
}

enum verdict control_receive(struct lane *lane, const struct vmm_chain *chain, const struct iovec *iov,
                             uint32_t *written) {
  uint8_t message[LONGEST];
  if (chain->in_len < HEADER) return DONE;
  pthread_mutex_lock(&lane->c->lock);
  uint32_t len = next_message(lane->c, message);
  pthread_mutex_unlock(&lane->c->lock);
  if (!len) return WAIT;
  for (uint32_t i = chain->n_out; i < chain->n_out + chain->n_in && *written < len; i++) {
    uint32_t n = iov[i].iov_len < len - *written ? (uint32_t)iov[i].iov_len : len - *written;
    memcpy(iov[i].iov_base, message + *written, n);
    *written += n;
  }
  return DONE;
}

/* --- from the driver --- */

/* With c->lock held. */
static void handle(struct console *c, uint32_t id, uint16_t event, uint16_t value) {
  if (event == DEVICE_READY) { /* the id has no meaning */
    for (uint32_t i = 0; i < c->n_ports; i++) {
      c->ports[i].ready = false;
      c->ports[i].todo = 0;
      if (value) console_todo(&c->ports[i], TODO_ADD);
    }
    return;
  }
  if (id >= c->n_ports) return;
  struct port *port = &c->ports[id];
  if (event == PORT_READY) {
    port->ready = value != 0;
    port->todo = 0;
    if (!value) return;
    if (!id) console_todo(port, TODO_CONSOLE);
    if (!id && (c->cols || c->rows)) console_todo(port, TODO_RESIZE);
    if (port->name) console_todo(port, TODO_NAME);
    console_todo(port, TODO_OPEN);
  } else if (event == PORT_OPEN) {
    port->guest_open = value != 0;
    if (port->guest_open) lane_wake(&port->rx);
    else stream_call(c); /* words that it will not hear now */
  }
}

enum verdict control_transmit(struct lane *lane, const struct vmm_chain *chain, const struct iovec *iov,
                              uint32_t *written) {
  uint8_t m[HEADER];
  uint32_t have = 0;
  (void)written;
  for (uint32_t i = 0; i < chain->n_out && have < HEADER; i++) {
    uint32_t n = iov[i].iov_len < HEADER - have ? (uint32_t)iov[i].iov_len : HEADER - have;
    memcpy(m + have, iov[i].iov_base, n);
    have += n;
  }
  if (have == HEADER) {
    pthread_mutex_lock(&lane->c->lock);
    handle(lane->c, (uint32_t)vmm_load(m, 4), (uint16_t)vmm_load(m + 4, 2), (uint16_t)vmm_load(m + 6, 2));
    pthread_mutex_unlock(&lane->c->lock);
  }
  return DONE;
}
