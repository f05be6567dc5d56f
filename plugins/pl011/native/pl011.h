/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port: a PL011 on the memory bus, an interrupt line and a byte stream of the host. */
#ifndef PL011_H
#define PL011_H

#include <stdint.h>

#include "pl011_chip.h"
#include "vmmuart.h"

struct pl011;

/* A paused serial port. `in_fd`, `out_fd` (-1: none) and `flags` as for chardev_open(), but they are closed on failure too.
 * NULL and *error = -errno on failure. */
struct pl011 *pl011_new(const void *api, void *vm, uint64_t address, uint32_t gsi, int in_fd, int out_fd,
                        uint32_t flags, int *error);
/* From any thread but a vCPU's. */
void pl011_free(struct pl011 *p);

void pl011_reset(struct pl011 *p);
void pl011_pause(struct pl011 *p, int paused); /* or go on: as vmm_uart_pause() */
void pl011_save(struct pl011 *p, struct pl011_state *state);
int pl011_restore(struct pl011 *p, const struct pl011_state *state); /* as pl011_chip_restore() */
void pl011_read_counters(struct pl011 *p, struct vmm_uart_counters *counters);

#endif
