/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 16550A UART as a pure state machine: it knows nothing of KVM, threads or
 * file descriptors. Its owner serialises the calls and supplies two callbacks.
 *
 * Source: National Semiconductor PC16550D data sheet (June 1995), section 8
 * "Registers". Bit names below are the data sheet's.
 *
 * Two deviations, both because no line rate is simulated:
 *  - a byte written to THR has left at once, unless the host cannot take it; then
 *    it waits in the transmit FIFO with THRE and TEMT clear;
 *  - received bytes below the trigger level raise the character time-out at once.
 */
#ifndef UART16550_H
#define UART16550_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UART_FIFO_SIZE 16u
#define UART_REGISTERS 8u /* I/O ports */

/* Register offsets; with LCR.DLAB set 0 and 1 are the divisor latch. */
enum { UART_RBR = 0, UART_THR = 0, UART_DLL = 0, UART_IER = 1, UART_DLM = 1, UART_IIR = 2, UART_FCR = 2,
       UART_LCR = 3, UART_MCR = 4, UART_LSR = 5, UART_MSR = 6, UART_SCR = 7 };

enum { IER_RDA = 0x01, IER_THRE = 0x02, IER_RLS = 0x04, IER_MS = 0x08, IER_MASK = 0x0f };
enum { IIR_MS = 0x00, IIR_NONE = 0x01, IIR_THRE = 0x02, IIR_RDA = 0x04, IIR_RLS = 0x06, IIR_TIMEOUT = 0x0c,
       IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 0x01, FCR_RX_RESET = 0x02, FCR_TX_RESET = 0x04, FCR_DMA = 0x08, FCR_TRIGGER = 0xc0 };
enum { LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT1 = 0x04, MCR_OUT2 = 0x08, MCR_LOOP = 0x10, MCR_MASK = 0x1f };
enum { LSR_DR = 0x01, LSR_OE = 0x02, LSR_ERRORS = 0x1e, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum { MSR_DCTS = 0x01, MSR_DDSR = 0x02, MSR_TERI = 0x04, MSR_DDCD = 0x08, MSR_DELTAS = 0x0f, MSR_CTS = 0x10,
       MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

/* All that a snapshot keeps. */
struct uart16550_state {
  uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
  uint8_t lsr_errors;   /* LSR bits 1..4 */
  uint8_t msr_deltas;   /* MSR bits 0..3 */
  uint8_t thre_pending; /* the THRE interrupt has not been acknowledged yet */
  uint8_t rx_len, tx_len;
  uint8_t rx[UART_FIFO_SIZE], tx[UART_FIFO_SIZE]; /* oldest first */
};

struct uart16550_ops {
  /* Bytes for the host; returns how many it took. Must not block or call back. */
  size_t (*transmit)(void *opaque, const uint8_t *data, size_t len);
  /* A new interrupt condition: one rising edge. */
  void (*interrupt)(void *opaque);
};

struct uart16550 {
  struct uart16550_state s;
  const struct uart16550_ops *ops;
  void *opaque;
  uint8_t raised; /* conditions (IER bits) for which the edge was already sent */
  uint64_t rx_bytes, tx_bytes, rx_overruns, tx_overruns;
};

void uart16550_init(struct uart16550 *u, const struct uart16550_ops *ops, void *opaque);
/* The state after the MR pin (data sheet table II); counters stay. */
void uart16550_reset(struct uart16550 *u);

/* `offset` is taken modulo 8. */
uint8_t uart16550_read(struct uart16550 *u, unsigned offset);
void uart16550_write(struct uart16550 *u, unsigned offset, uint8_t value);

/* Bytes from the host; returns how many fitted (none in loopback mode). */
size_t uart16550_receive(struct uart16550 *u, const uint8_t *data, size_t len);
/* True when nothing received is waiting and the host may send more. */
bool uart16550_wants_input(const struct uart16550 *u);

/* Offers the waiting bytes to the host again; true when none is left. */
bool uart16550_drain(struct uart16550 *u);

/* 0, or -1 and no change if `state` could not have come from a UART. Raises the
 * interrupt again if one is pending: an edge in flight is not part of the state. */
int uart16550_restore(struct uart16550 *u, const struct uart16550_state *state);

#endif
