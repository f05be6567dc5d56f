/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port: a 16550A on the I/O bus, an interrupt line and a byte stream of the host. */
#ifndef SERIAL_H
#define SERIAL_H

#include <stdint.h>

#include "uart16550.h"

struct serial;

struct serial_counters {
  uint64_t rx_bytes, tx_bytes, rx_overruns, tx_overruns, interrupts;
};

/* A paused serial port. `in_fd`, `out_fd` (-1: none) and `flags` as for chardev_open(), but they are closed on failure too.
 * NULL and *error = -errno on failure. */
struct serial *serial_new(const void *api, void *vm, uint16_t port, uint32_t gsi, int in_fd, int out_fd,
                          uint32_t flags, int *error);
/* From any thread but a vCPU's. */
void serial_free(struct serial *serial);

void serial_reset(struct serial *serial);
void serial_pause(struct serial *serial); /* takes no more input, so that a snapshot loses none */
void serial_resume(struct serial *serial);
void serial_save(struct serial *serial, struct uart16550_state *state);
int serial_restore(struct serial *serial, const struct uart16550_state *state); /* as uart16550_restore() */
void serial_read_counters(struct serial *serial, struct serial_counters *counters);

#endif
