/* SPDX-License-Identifier: Apache-2.0 */
#include "uart16550.h"

#include <string.h>

/* --- interrupts ----------------------------------------------------------- */

/* The conditions that are enabled and pending, as IER bits. */
static uint8_t pending(const struct uart16550 *u) {
  uint8_t p = 0;
  if (u->s.lsr_errors) p |= IER_RLS;
  if (u->s.rx_len) p |= IER_RDA;
  if (u->s.thre_pending) p |= IER_THRE;
  if (u->s.msr_deltas) p |= IER_MS;
  return p & u->s.ier;
}

/* An edge for each condition that was not pending before. The line of a real
 * chip stays high while a second condition arrives; the extra edge is harmless
 * and saves a driver that left its handler early. */
static void update_interrupt(struct uart16550 *u) {
  uint8_t now = pending(u);
  bool edge = (now & ~u->raised) != 0;
  u->raised = now;
  if (edge) u->ops->interrupt(u->opaque);
}

static unsigned trigger_level(const struct uart16550 *u) {
  static const uint8_t levels[] = {1, 4, 8, 14};
  return (u->s.fcr & FCR_ENABLE) ? levels[u->s.fcr >> 6] : 1;
}

/* Data sheet table IV: the pending condition of the highest priority. */
static uint8_t read_iir(struct uart16550 *u) {
  uint8_t p = pending(u), id = IIR_NONE;
  if (p & IER_RLS) {
    id = IIR_RLS;
  } else if (p & IER_RDA) {
    id = u->s.rx_len >= trigger_level(u) ? IIR_RDA : IIR_TIMEOUT;
  } else if (p & IER_THRE) {
    id = IIR_THRE;
    u->s.thre_pending = 0; /* "reading the IIR (if source of interrupt)" */
  } else if (p & IER_MS) {
    id = IIR_MS;
  }
  return id | ((u->s.fcr & FCR_ENABLE) ? IIR_FIFO : 0);
}

/* --- FIFOs ---------------------------------------------------------------- */

static unsigned fifo_size(const struct uart16550 *u) {
  return (u->s.fcr & FCR_ENABLE) ? UART_FIFO_SIZE : 1;
}

static uint8_t pop_rx(struct uart16550 *u) {
  if (!u->s.rx_len) return 0;
  uint8_t value = u->s.rx[0];
  memmove(u->s.rx, u->s.rx + 1, --u->s.rx_len);
  return value;
}

static void push_rx_loopback(struct uart16550 *u, uint8_t value) {
  if (u->s.rx_len < fifo_size(u)) {
    u->s.rx[u->s.rx_len++] = value;
    return;
  }
  u->s.lsr_errors |= LSR_OE;
  u->rx_overruns++;
  /* With FIFOs the new byte is lost, without them the old one (data sheet 8.4). */
  if (!(u->s.fcr & FCR_ENABLE)) u->s.rx[0] = value;
}

static void drain(struct uart16550 *u) {
  if (!u->s.tx_len) return;
  size_t taken = u->ops->transmit(u->opaque, u->s.tx, u->s.tx_len);
  if (taken > u->s.tx_len) taken = u->s.tx_len;
  u->tx_bytes += taken;
  u->s.tx_len = (uint8_t)(u->s.tx_len - taken);
  memmove(u->s.tx, u->s.tx + taken, u->s.tx_len);
  if (!u->s.tx_len) u->s.thre_pending = 1;
}

static void write_thr(struct uart16550 *u, uint8_t value) {
  if (u->s.mcr & MCR_LOOP) {
    push_rx_loopback(u, value);
    if (!u->s.tx_len) u->s.thre_pending = 1;
    return;
  }
  if (u->s.tx_len >= fifo_size(u)) drain(u);
  if (u->s.tx_len >= fifo_size(u)) {
    u->tx_overruns++; /* the driver did not wait for THRE */
    return;
  }
  /* While an earlier THRE interrupt is unanswered the driver will look anyway:
   * it stays pending, so that sixteen bytes cost one edge and not sixteen. */
  if (u->s.tx_len) u->s.thre_pending = 0;
  u->s.tx[u->s.tx_len++] = value;
  drain(u);
  if (u->s.tx_len) u->s.thre_pending = 0;
}

static void write_fcr(struct uart16550 *u, uint8_t value) {
  /* Data sheet 8.5: a change of bit 0 clears both FIFOs; other bits count only with bit 0 set. */
  bool toggled = ((value ^ u->s.fcr) & FCR_ENABLE) != 0;
  if (!(value & FCR_ENABLE)) value = 0;
  if (toggled || (value & FCR_RX_RESET)) u->s.rx_len = 0;
  if ((toggled || (value & FCR_TX_RESET)) && u->s.tx_len) {
    u->s.tx_len = 0;
    u->s.thre_pending = 1;
  }
  u->s.fcr = value & (FCR_ENABLE | FCR_DMA | FCR_TRIGGER);
}

/* --- modem ---------------------------------------------------------------- */

/* The modem inputs: an attached, ready peer; in loopback the modem outputs (data sheet 8.7). */
static uint8_t modem_lines(const struct uart16550 *u) {
  if (!(u->s.mcr & MCR_LOOP)) return MSR_CTS | MSR_DSR | MSR_DCD;
  return (uint8_t)(((u->s.mcr & MCR_RTS) ? MSR_CTS : 0) | ((u->s.mcr & MCR_DTR) ? MSR_DSR : 0) |
                   ((u->s.mcr & MCR_OUT1) ? MSR_RI : 0) | ((u->s.mcr & MCR_OUT2) ? MSR_DCD : 0));
}

static void write_mcr(struct uart16550 *u, uint8_t value) {
  uint8_t before = modem_lines(u);
  u->s.mcr = value & MCR_MASK;
  uint8_t after = modem_lines(u), changed = before ^ after;
  if (changed & MSR_CTS) u->s.msr_deltas |= MSR_DCTS;
  if (changed & MSR_DSR) u->s.msr_deltas |= MSR_DDSR;
  if (changed & before & MSR_RI) u->s.msr_deltas |= MSR_TERI; /* trailing edge only */
  if (changed & MSR_DCD) u->s.msr_deltas |= MSR_DDCD;
}

/* --- interface ------------------------------------------------------------ */

void uart16550_reset(struct uart16550 *u) {
  memset(&u->s, 0, sizeof u->s);
  u->s.dll = 1; /* 115200 baud: what a guest that asks the divisor expects to see */
  u->raised = 0;
}

void uart16550_init(struct uart16550 *u, const struct uart16550_ops *ops, void *opaque) {
  memset(u, 0, sizeof *u);
  u->ops = ops;
  u->opaque = opaque;
  uart16550_reset(u);
}

uint8_t uart16550_read(struct uart16550 *u, unsigned offset) {
  bool dlab = (u->s.lcr & LCR_DLAB) != 0;
  uint8_t value = 0;
  switch (offset % UART_REGISTERS) {
    case UART_RBR: value = dlab ? u->s.dll : pop_rx(u); break;
    case UART_IER: value = dlab ? u->s.dlm : u->s.ier; break;
    case UART_IIR: value = read_iir(u); break;
    case UART_LCR: value = u->s.lcr; break;
    case UART_MCR: value = u->s.mcr; break;
    case UART_LSR:
      drain(u); /* a polling driver sees room as soon as there is some */
      value = u->s.lsr_errors | (u->s.rx_len ? LSR_DR : 0) | (u->s.tx_len ? 0 : LSR_THRE | LSR_TEMT);
      u->s.lsr_errors = 0;
      break;
    case UART_MSR:
      value = modem_lines(u) | u->s.msr_deltas;
      u->s.msr_deltas = 0;
      break;
    case UART_SCR: value = u->s.scr; break;
  }
  update_interrupt(u);
  return value;
}

void uart16550_write(struct uart16550 *u, unsigned offset, uint8_t value) {
  bool dlab = (u->s.lcr & LCR_DLAB) != 0;
  switch (offset % UART_REGISTERS) {
    case UART_THR:
      if (dlab) u->s.dll = value;
      else write_thr(u, value);
      break;
    case UART_IER:
      if (dlab) {
        u->s.dlm = value;
        break;
      }
      /* Enabling THRE while THR is empty interrupts at once: drivers start to send this way. */
      if ((value & ~u->s.ier & IER_THRE) && !u->s.tx_len) u->s.thre_pending = 1;
      u->s.ier = value & IER_MASK;
      break;
    case UART_FCR: write_fcr(u, value); break;
    case UART_LCR: u->s.lcr = value; break;
    case UART_MCR: write_mcr(u, value); break;
    case UART_SCR: u->s.scr = value; break;
    default: break; /* LSR and MSR are read only */
  }
  update_interrupt(u);
}

size_t uart16550_receive(struct uart16550 *u, const uint8_t *data, size_t len) {
  if (u->s.mcr & MCR_LOOP) return 0;
  size_t room = fifo_size(u) - u->s.rx_len;
  if (len > room) len = room;
  if (!len) return 0;
  memcpy(u->s.rx + u->s.rx_len, data, len);
  u->s.rx_len = (uint8_t)(u->s.rx_len + len);
  u->rx_bytes += len;
  update_interrupt(u);
  return len;
}

bool uart16550_wants_input(const struct uart16550 *u) {
  return !u->s.rx_len && !(u->s.mcr & MCR_LOOP);
}

bool uart16550_drain(struct uart16550 *u) {
  drain(u);
  update_interrupt(u);
  return !u->s.tx_len;
}

int uart16550_restore(struct uart16550 *u, const struct uart16550_state *state) {
  unsigned size = (state->fcr & FCR_ENABLE) ? UART_FIFO_SIZE : 1;
  if (state->rx_len > size || state->tx_len > size || state->ier > IER_MASK || state->mcr > MCR_MASK ||
      (state->lsr_errors & ~LSR_ERRORS) || (state->msr_deltas & ~MSR_DELTAS) || state->thre_pending > 1 ||
      (state->tx_len && state->thre_pending) ||
      (state->fcr & ~(FCR_ENABLE | FCR_DMA | FCR_TRIGGER)) || (!(state->fcr & FCR_ENABLE) && state->fcr))
    return -1;
  u->s = *state;
  u->raised = 0;
  update_interrupt(u);
  return 0;
}
