/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PL011 UART as a pure state machine: it knows nothing of KVM, threads or file descriptors. Its owner serialises
 * the calls and supplies two callbacks.
 *
 * Source: PrimeCell UART (PL011) Technical Reference Manual, ARM DDI 0183G (r1p5), chapter 3. Bit names are the manual's.
 *
 * Deviations, all but the last because no line rate is simulated:
 *  - a byte written to UARTDR has left at once, unless the host cannot take it; then it waits in the transmit FIFO with
 *    TXFE clear and BUSY set;
 *  - received bytes count as timed out at once, and again after each read that leaves some;
 *  - the transmit interrupt is raised by each byte that leaves while the FIFO is at its trigger level or below;
 *  - neither UARTEN nor TXE is needed to send, nor UARTEN to receive: what prints before any driver runs is seen.
 */
#ifndef PL011_CHIP_H
#define PL011_CHIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PL011_FIFO_SIZE 32u /* since r1p5 */

enum { UARTDR = 0x000, UARTRSR = 0x004, UARTFR = 0x018, UARTILPR = 0x020, UARTIBRD = 0x024, UARTFBRD = 0x028,
       UARTLCR_H = 0x02c, UARTCR = 0x030, UARTIFLS = 0x034, UARTIMSC = 0x038, UARTRIS = 0x03c, UARTMIS = 0x040,
       UARTICR = 0x044, UARTDMACR = 0x048 };

enum { DR_OE = 1u << 11 };
enum { RSR_OE = 1u << 3 };
enum { FR_CTS = 0x001, FR_DSR = 0x002, FR_DCD = 0x004, FR_BUSY = 0x008, FR_RXFE = 0x010, FR_TXFF = 0x020,
       FR_RXFF = 0x040, FR_TXFE = 0x080, FR_RI = 0x100 };
enum { LCR_FEN = 0x10 };
enum { CR_LBE = 1u << 7, CR_TXE = 1u << 8, CR_RXE = 1u << 9, CR_DTR = 1u << 10, CR_RTS = 1u << 11, CR_OUT1 = 1u << 12,
       CR_OUT2 = 1u << 13, CR_MASK = 0xff87 };
/* Interrupts: bits of UARTIMSC, UARTRIS, UARTMIS and UARTICR. */
enum { INT_RI = 1u << 0, INT_CTS = 1u << 1, INT_DCD = 1u << 2, INT_DSR = 1u << 3, INT_RX = 1u << 4, INT_TX = 1u << 5,
       INT_RT = 1u << 6, INT_OE = 1u << 10, INT_MASK = 0x7ff, INT_POSSIBLE = 0x47f };

/* All that a snapshot keeps. */
struct pl011_state {
  uint32_t ilpr, ibrd, fbrd, lcr_h, cr, ifls, imsc, ris, dmacr;
  uint32_t rsr;     /* RSR_OE or 0 */
  uint32_t overrun; /* the next byte received says that some before it were lost */
  uint32_t rx_len, tx_len;
  uint16_t rx[PL011_FIFO_SIZE]; /* oldest first, with DR_OE */
  uint8_t tx[PL011_FIFO_SIZE];
};

struct pl011_ops {
  /* Bytes for the host; returns how many it took. Must not block or call back. */
  size_t (*transmit)(void *opaque, const uint8_t *data, size_t len);
  /* The interrupt line (UARTINTR) has changed. */
  void (*line)(void *opaque, bool level);
};

struct pl011_chip {
  struct pl011_state s;
  const struct pl011_ops *ops;
  void *opaque;
  bool level; /* of the line */
  uint64_t rx_bytes, tx_bytes, rx_overruns, tx_overruns;
};

void pl011_chip_init(struct pl011_chip *u, const struct pl011_ops *ops, void *opaque);
/* The state after PRESETn (manual table 3-1); counters stay. */
void pl011_chip_reset(struct pl011_chip *u);

/* `reg`: offset of a register, a multiple of 4 below 0x1000. What is not there reads as 0. */
uint32_t pl011_chip_read(struct pl011_chip *u, uint32_t reg);
void pl011_chip_write(struct pl011_chip *u, uint32_t reg, uint32_t value);

/* Bytes from the host; returns how many fitted (none in loopback mode, none while the receiver is off). */
size_t pl011_chip_receive(struct pl011_chip *u, const uint8_t *data, size_t len);
/* True when the host may send more: nothing waits, or the driver has been told and did not care. */
bool pl011_chip_wants_input(const struct pl011_chip *u);

/* Offers the waiting bytes to the host again. */
void pl011_chip_drain(struct pl011_chip *u);

/* 0, or -1 and no change if `state` could not have come from a PL011. */
int pl011_chip_restore(struct pl011_chip *u, const struct pl011_state *state);

#endif
