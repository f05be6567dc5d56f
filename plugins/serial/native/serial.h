/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port: a 16550A on the I/O bus, an interrupt line and a byte stream of the host. */
#ifndef SERIAL_H
#define SERIAL_H

#include <stdint.h>

#include "uart16550.h"
#include "vmmuart.h"

struct serial;

/* A paused serial port. `in_fd`, `out_fd` (-1: none) and `flags` as for chardev_open(), but they are closed on failure too.
 * NULL and *error = -errno on failure. */
struct serial *serial_new(const void *api, void *vm, uint16_t port, uint32_t gsi, int in_fd, int out_fd,
                          uint32_t flags, int *error);
/* From any thread but a vCPU's. */
void serial_free(struct serial *serial);

void serial_reset(struct serial *serial);
void serial_pause(struct serial *serial, int paused); /* or go on: as vmm_uart_pause() */
void serial_save(struct serial *serial, struct uart16550_state *state);
int serial_restore(struct serial *serial, const struct uart16550_state *state); /* as uart16550_restore() */
void serial_read_counters(struct serial *serial, struct vmm_uart_counters *counters);

#endif
