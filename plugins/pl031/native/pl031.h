/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A real-time clock: the PL031 on the memory bus, a level interrupt line and a timer of the host.
 *
 * Source: PrimeCell Real Time Clock (PL031) Technical Reference Manual, ARM DDI 0224C, chapter 3. The counter is the
 * host's time of day in seconds since 1970, plus what the guest has made of it by writing RTCLR; it follows when the
 * host's clock is set. It runs from the start, so that RTCCR reads as 1.
 */
#ifndef PL031_H
#define PL031_H

#include <stdint.h>

enum { RTCDR = 0x000, RTCMR = 0x004, RTCLR = 0x008, RTCCR = 0x00c, RTCIMSC = 0x010, RTCRIS = 0x014, RTCMIS = 0x018,
       RTCICR = 0x01c };

/* All that a snapshot keeps. */
struct pl031_state {
  uint32_t offset; /* RTCDR minus the host's seconds, modulo 2^32 */
  uint32_t mr, lr, imsc, ris;
  int64_t match_at; /* the host's second in which RTCDR is RTCMR, or was while nobody looked; 0: the match has been */
};

struct pl031;

/* A paused clock. NULL and *error = -errno on failure. */
struct pl031 *pl031_new(const void *api, void *vm, uint64_t address, uint32_t gsi, int *error);
/* From any thread but a vCPU's or the loop's. */
void pl031_free(struct pl031 *p);

void pl031_reset(struct pl031 *p);
void pl031_pause(struct pl031 *p, int paused); /* a paused clock goes on, but raises no interrupt; or go on */
void pl031_save(struct pl031 *p, struct pl031_state *state);
/* 0, or -1 and no change if `state` could not have come from a PL031. */
int pl031_restore(struct pl031 *p, const struct pl031_state *state);

#endif
