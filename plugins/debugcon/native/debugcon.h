/* SPDX-License-Identifier: Apache-2.0 */
/* Three debug ports of PC emulators: console, boot-time stamps, exit. */
#ifndef DEBUGCON_H
#define DEBUGCON_H

#include <stdint.h>

#define DEBUGCON_STAMPS 256 /* one for each byte value */

#define DEBUGCON_EXIT_PORTS 4 /* written with 1, 2 or 4 bytes */

struct debugcon;

struct debugcon_ports {
  uint16_t console, stamp, exit; /* I/O ports; 0: not there */
};

struct debugcon_stamp {
  uint64_t time_ns; /* CLOCK_MONOTONIC */
  uint8_t value;
};

struct debugcon_counters {
  uint64_t tx_bytes, tx_dropped, stamps;
};

/* `out_fd` (-1: none) and `flags` as for chardev_open(), but it is closed on failure too.
 * NULL and *error = -errno on failure. */
struct debugcon *debugcon_new(const void *api, void *vm, const struct debugcon_ports *ports, int out_fd, uint32_t flags,
                              int *error);
/* From any thread but a vCPU's. */
void debugcon_free(struct debugcon *debugcon);
/* A new boot: forgets the stamps and arms the exit port again. */
void debugcon_reset(struct debugcon *debugcon);
/* When the guest wrote each value to the stamp port for the first time, in order. Returns how many. */
unsigned debugcon_stamps(struct debugcon *debugcon, struct debugcon_stamp stamps[DEBUGCON_STAMPS]);
void debugcon_read_counters(struct debugcon *debugcon, struct debugcon_counters *counters);

#endif
