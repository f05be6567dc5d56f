/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Eight lines of general purpose I/O: the PL061 on the memory bus with a level interrupt line. Line 3 is the machine's
 * power button; nothing is at the others, which read as 0 unless the guest makes them outputs.
 *
 * Source: PrimeCell General Purpose Input/Output (PL061) Technical Reference Manual, ARM DDI 0190B, chapter 3.
 */
#ifndef PL061_H
#define PL061_H

#include <stdint.h>

/* GPIODATA is at 0x000–0x3fc: bits 9:2 of the address say which lines are meant. */
enum { GPIODATA = 0x000, GPIODIR = 0x400, GPIOIS = 0x404, GPIOIBE = 0x408, GPIOIEV = 0x40c, GPIOIE = 0x410,
       GPIORIS = 0x414, GPIOMIS = 0x418, GPIOIC = 0x41c, GPIOAFSEL = 0x420 };

enum { PL061_POWER = 1u << 3 };

/* All that a snapshot keeps; a bit for each line. */
struct pl061_state {
  uint8_t in;    /* what comes from outside */
  uint8_t out;   /* what the guest has written */
  uint8_t edges; /* edges that have not been cleared */
  uint8_t dir, is, ibe, iev, ie, afsel;
};

struct pl061;

/* NULL and *error = -errno on failure. */
struct pl061 *pl061_new(const void *api, void *vm, uint64_t address, uint32_t gsi, int *error);
/* From any thread but a vCPU's or the loop's. */
void pl061_free(struct pl061 *p);

/* Press the power button, and let go of it when the guest has seen it, after a tenth of a second at least and a second
 * at most. A press while it is down is none. Any thread. */
void pl061_press(struct pl061 *p);

void pl061_reset(struct pl061 *p);
void pl061_pause(struct pl061 *p, int paused); /* the button stays as it is; or go on */
void pl061_save(struct pl061 *p, struct pl061_state *state);
/* 0, or -1 and no change if `state` could not have come from a PL061. */
int pl061_restore(struct pl061 *p, const struct pl061_state *state);

#endif
