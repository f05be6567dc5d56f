/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ECHO_H
#define ECHO_H

/* NULL: out of memory, or the core is not one that this was compiled for. `id`: the device's, for its counters. */
void *echo_new(const void *api, void *vm, const char *id);
/* Serve the queue on its loop from now on, until the core stops the device. 0, or -errno. */
int echo_start(void *echo, void *queue);
/* The device is stopped. */
void echo_free(void *echo);

#endif
