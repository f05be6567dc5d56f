/* SPDX-License-Identifier: Apache-2.0 */
#include "pl011_chip.h"

#include <string.h>

#include "vmmamba.h"

enum { PART = 0x011, REVISION = 3 }; /* r1p5; earlier ones have FIFOs of 16 */

static void update_line(struct pl011_chip *u) {
  bool level = (u->s.ris & u->s.imsc) != 0;
  if (level == u->level) return;
  u->level = level;
  u->ops->line(u->opaque, level);
}

/* --- FIFOs ---------------------------------------------------------------- */

static unsigned fifo_size(uint32_t lcr_h) {
  return lcr_h & LCR_FEN ? PL011_FIFO_SIZE : 1;
}

/* Of UARTIFLS's field `select` (manual 3.3.9): 1/8, 1/4, 1/2, 3/4, 7/8 of a FIFO; the rest is reserved. */
static unsigned trigger_level(const struct pl011_chip *u, uint32_t select) {
  static const uint8_t eighths[8] = {1, 2, 4, 6, 7, 7, 7, 7};
  return u->s.lcr_h & LCR_FEN ? PL011_FIFO_SIZE / 8 * eighths[select & 7] : 0;
}

static unsigned rx_trigger(const struct pl011_chip *u) {
  unsigned level = trigger_level(u, u->s.ifls >> 3);
  return level ? level : 1;
}

static void put_rx(struct pl011_chip *u, uint8_t byte) {
  u->s.rx[u->s.rx_len++] = (uint16_t)(byte | (u->s.overrun ? (unsigned)DR_OE : 0));
  u->s.overrun = 0;
  u->s.ris |= INT_RT;
  if (u->s.rx_len == rx_trigger(u)) u->s.ris |= INT_RX; /* "transitions through" the level */
}

static uint32_t pop_rx(struct pl011_chip *u) {
  if (!u->s.rx_len) return 0;
  uint32_t value = u->s.rx[0];
  memmove(u->s.rx, u->s.rx + 1, --u->s.rx_len * sizeof u->s.rx[0]);
  if (u->s.rx_len < rx_trigger(u)) u->s.ris &= ~(uint32_t)INT_RX;
  if (u->s.rx_len) u->s.ris |= INT_RT;
  else u->s.ris &= ~(uint32_t)INT_RT;
  u->s.rsr = value & DR_OE ? RSR_OE : 0; /* manual 3.3.2: status of the character just read */
  return value;
}

/* Loopback: the transmitter feeds the receiver, which may be full. */
static void loop_back(struct pl011_chip *u, uint8_t byte) {
  if (!(u->s.cr & CR_RXE)) return;
  if (u->s.rx_len < fifo_size(u->s.lcr_h)) {
    put_rx(u, byte);
    return;
  }
  u->rx_overruns++;
  u->s.overrun = 1;
  u->s.rsr = RSR_OE;
  u->s.ris |= INT_OE;
}

/* Hand what waits to the host. */
static void drain(struct pl011_chip *u) {
  if (!u->s.tx_len) return;
  size_t sent = u->ops->transmit(u->opaque, u->s.tx, u->s.tx_len);
  if (!sent) return;
  u->s.tx_len -= (uint32_t)sent;
  u->tx_bytes += sent;
  memmove(u->s.tx, u->s.tx + sent, u->s.tx_len);
  if (u->s.tx_len <= trigger_level(u, u->s.ifls)) u->s.ris |= INT_TX;
}

static void write_dr(struct pl011_chip *u, uint8_t byte) {
  if (u->s.cr & CR_LBE) {
    loop_back(u, byte);
    u->s.ris |= INT_TX;
    return;
  }
  drain(u);
  if (u->s.tx_len == fifo_size(u->s.lcr_h)) {
    u->tx_overruns++;
    return;
  }
  u->s.tx[u->s.tx_len++] = byte;
  if (u->s.tx_len > trigger_level(u, u->s.ifls)) u->s.ris &= ~(uint32_t)INT_TX;
  drain(u);
}

/* "When cleared to 0 the FIFOs … become 1-byte-deep holding registers" (manual 3.3.7): what was in them is gone. */
static void write_lcr(struct pl011_chip *u, uint32_t value) {
  if ((value ^ u->s.lcr_h) & LCR_FEN) {
    drain(u);
    u->s.rx_len = u->s.tx_len = 0;
    u->s.ris &= ~(uint32_t)(INT_RX | INT_RT);
  }
  u->s.lcr_h = value & 0xff;
}

/* --- modem ---------------------------------------------------------------- */

/* The modem inputs: an attached, ready peer; in loopback the modem outputs (manual 2.4.4). */
static uint32_t modem_lines(const struct pl011_chip *u) {
  uint32_t cr = u->s.cr;
  if (!(cr & CR_LBE)) return FR_CTS | FR_DSR | FR_DCD;
  return (cr & CR_RTS ? FR_CTS : 0u) | (cr & CR_DTR ? FR_DSR : 0u) | (cr & CR_OUT1 ? FR_DCD : 0u) |
         (cr & CR_OUT2 ? FR_RI : 0u);
}

static void write_cr(struct pl011_chip *u, uint32_t value) {
  uint32_t before = modem_lines(u);
  u->s.cr = value & CR_MASK;
  uint32_t changed = before ^ modem_lines(u);
  u->s.ris |= (changed & FR_RI ? INT_RI : 0u) | (changed & FR_CTS ? INT_CTS : 0u) | (changed & FR_DCD ? INT_DCD : 0u) |
              (changed & FR_DSR ? INT_DSR : 0u);
}

/* --- interface ------------------------------------------------------------ */

void pl011_chip_reset(struct pl011_chip *u) {
  u->s = (struct pl011_state){.cr = CR_RXE | CR_TXE, .ifls = 0x12};
  update_line(u);
}

void pl011_chip_init(struct pl011_chip *u, const struct pl011_ops *ops, void *opaque) {
  *u = (struct pl011_chip){.ops = ops, .opaque = opaque};
  pl011_chip_reset(u);
}

static uint32_t flags(struct pl011_chip *u) {
  drain(u); /* a polling driver sees room as soon as there is some */
  unsigned size = fifo_size(u->s.lcr_h);
  return modem_lines(u) | (u->s.tx_len ? FR_BUSY : FR_TXFE) | (u->s.rx_len ? 0u : FR_RXFE) |
         (u->s.tx_len == size ? FR_TXFF : 0u) | (u->s.rx_len == size ? FR_RXFF : 0u);
}

uint32_t pl011_chip_read(struct pl011_chip *u, uint32_t reg) {
  uint32_t value = 0;
  switch (reg) {
    case UARTDR: value = pop_rx(u); break;
    case UARTRSR: value = u->s.rsr; break;
    case UARTFR: value = flags(u); break;
    case UARTILPR: value = u->s.ilpr; break;
    case UARTIBRD: value = u->s.ibrd; break;
    case UARTFBRD: value = u->s.fbrd; break;
    case UARTLCR_H: value = u->s.lcr_h; break;
    case UARTCR: value = u->s.cr; break;
    case UARTIFLS: value = u->s.ifls; break;
    case UARTIMSC: value = u->s.imsc; break;
    case UARTRIS: value = u->s.ris; break;
    case UARTMIS: value = u->s.ris & u->s.imsc; break;
    case UARTDMACR: value = u->s.dmacr; break;
    default: value = vmm_amba_id(reg, PART, REVISION); break;
  }
  update_line(u);
  return value;
}

void pl011_chip_write(struct pl011_chip *u, uint32_t reg, uint32_t value) {
  switch (reg) {
    case UARTDR: write_dr(u, (uint8_t)value); break;
    case UARTRSR: u->s.rsr = 0; break; /* UARTECR: any value clears */
    case UARTILPR: u->s.ilpr = value & 0xff; break;
    case UARTIBRD: u->s.ibrd = value & 0xffff; break;
    case UARTFBRD: u->s.fbrd = value & 0x3f; break;
    case UARTLCR_H: write_lcr(u, value); break;
    case UARTCR: write_cr(u, value); break;
    case UARTIFLS: u->s.ifls = value & 0x3f; break;
    case UARTIMSC: u->s.imsc = value & INT_MASK; break;
    case UARTICR: u->s.ris &= ~value; break;
    case UARTDMACR: u->s.dmacr = value & 7; break;
    default: break; /* read only, or not there */
  }
  update_line(u);
}

static bool receiver_on(const struct pl011_chip *u) {
  return (u->s.cr & (CR_RXE | CR_LBE)) == CR_RXE;
}

size_t pl011_chip_receive(struct pl011_chip *u, const uint8_t *data, size_t len) {
  if (!receiver_on(u)) return 0;
  size_t room = fifo_size(u->s.lcr_h) - u->s.rx_len;
  if (len > room) len = room;
  for (size_t i = 0; i < len; i++) put_rx(u, data[i]);
  u->rx_bytes += len;
  update_line(u);
  return len;
}

bool pl011_chip_wants_input(const struct pl011_chip *u) {
  if (!receiver_on(u)) return false;
  return !u->s.rx_len || (u->s.rx_len < fifo_size(u->s.lcr_h) && !(u->s.ris & (INT_RX | INT_RT)));
}

void pl011_chip_drain(struct pl011_chip *u) {
  drain(u);
  update_line(u);
}

int pl011_chip_restore(struct pl011_chip *u, const struct pl011_state *s) {
  unsigned size = fifo_size(s->lcr_h);
  if (s->rx_len > size || s->tx_len > size || s->ilpr > 0xff || s->ibrd > 0xffff || s->fbrd > 0x3f || s->lcr_h > 0xff ||
      (s->cr & ~(uint32_t)CR_MASK) || s->ifls > 0x3f || s->imsc > INT_MASK || (s->ris & ~(uint32_t)INT_POSSIBLE) ||
      s->dmacr > 7 || (s->rsr & ~(uint32_t)RSR_OE) || s->overrun > 1 || (!s->rx_len && s->ris & (INT_RX | INT_RT)))
    return -1;
  for (unsigned i = 0; i < s->rx_len; i++)
    if (s->rx[i] & ~(DR_OE | 0xffu)) return -1;
  u->s = *s;
  update_line(u);
  return 0;
}
