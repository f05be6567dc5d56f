/* SPDX-License-Identifier: Apache-2.0 */
/* The PL011 against a core made of a few arrays: registers, flow, interrupts, life cycle, threads.
 * Built with sanitizers and run by test_native.py. */
#include "fake_devices.h"

#include "pl011.h"
#include "vmmamba.h"

enum { ADDRESS = 0x09000000, GSI = 11, EMPTY = FR_TXFE | FR_RXFE | FR_CTS | FR_DSR | FR_DCD };

static struct pl011 *start(size_t room) {
  int error = 1, in_fd = some_fd(), out_fd = some_fd();
  fake.room = room;
  fake.sent_len = fake.kicks = fake.rises = 0;
  struct pl011 *p = pl011_new(&fake_api, NULL, ADDRESS, GSI, in_fd, out_fd, 0, &error);
  CHECK(p && error == 0 && fake.mapped == 1);
  CHECK(fake.space == VMM_MMIO && fake.base == ADDRESS && fake.len == VMM_AMBA_SIZE);
  CHECK(host_sends("x", 1) == 0); /* not yet */
  pl011_pause(p, 0);
  CHECK(fake.kicks == 1); /* now it may come */
  fake.kicks = 0;
  return p;
}

static void stop(struct pl011 *p) {
  pl011_free(p);
  CHECK(!fake.mapped && !fake.open_chardevs && !fake.level);
}

/* As Linux' amba-pl011 leaves it: FIFOs, interrupts for input. */
static void enable(uint32_t interrupts) {
  out32(UARTLCR_H, 0x60 | LCR_FEN);
  out32(UARTCR, CR_RXE | CR_TXE | 1);
  out32(UARTIMSC, interrupts);
}

/* --- registers ------------------------------------------------------------------- */

static void after_reset(void) {
  struct pl011 *p = start(1000);
  CHECK(in32(UARTFR) == EMPTY);
  CHECK(in32(UARTCR) == 0x300 && in32(UARTIFLS) == 0x12 && in32(UARTLCR_H) == 0 && in32(UARTIMSC) == 0);
  CHECK(in32(UARTRIS) == 0 && in32(UARTMIS) == 0 && in32(UARTRSR) == 0 && in32(UARTDMACR) == 0);
  stop(p);
}

static void identification(void) {
  static const uint32_t id[] = {0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1};
  struct pl011 *p = start(1000);
  for (unsigned i = 0; i < 8; i++) {
    out32(0xfe0 + 4 * i, 0xffffffff);
    CHECK(in32(0xfe0 + 4 * i) == id[i]);
  }
  stop(p);
}

static void registers_keep_the_bits_that_they_have(void) {
  static const struct { uint32_t reg, mask; } kept[] = {
      {UARTILPR, 0xff}, {UARTIBRD, 0xffff}, {UARTFBRD, 0x3f}, {UARTLCR_H, 0xff}, {UARTCR, 0xff87},
      {UARTIFLS, 0x3f}, {UARTIMSC, 0x7ff}, {UARTDMACR, 0x7},
  };
  struct pl011 *p = start(1000);
  for (unsigned i = 0; i < sizeof kept / sizeof *kept; i++) {
    out32(kept[i].reg, 0xffffffff);
    CHECK(in32(kept[i].reg) == kept[i].mask);
    out32(kept[i].reg, 0x5a5a5a5a);
    CHECK(in32(kept[i].reg) == (0x5a5a5a5a & kept[i].mask));
    out32(kept[i].reg, 0);
  }
  CHECK(in32(0x008) == 0 && in32(0x800) == 0);
  stop(p);
}

static void accesses_of_any_width(void) {
  struct pl011 *p = start(1000);
  guest_write(UARTIBRD, 0x1234, 2);
  guest_write(UARTIBRD + 1, 0xff, 1); /* no byte lanes */
  CHECK(in32(UARTIBRD) == 0x1234 && guest_read(UARTIBRD, 1) == 0x34 && guest_read(UARTIBRD + 1, 1) == 0x12);
  guest_write(UARTIBRD, 0x77, 1);
  CHECK(in32(UARTIBRD) == 0x77);
  guest_write(UARTIBRD, 0x2a00000011, 8);
  CHECK(guest_read(UARTIBRD, 8) == 0x2a00000011 && in32(UARTFBRD) == 0x2a);
  guest_write(UARTDR, 'A', 1);
  guest_write(UARTDR, 'B', 2);
  CHECK(host_got("AB"));
  CHECK(guest_read(0xffe, 2) == 0 && guest_read(0xffc, 4) == 0xb1);
  stop(p);
}

/* --- flow -------------------------------------------------------------------------- */

static void output_from_the_first_instruction(void) {
  struct pl011 *p = start(1000);
  for (const char *c = "hello\n"; *c; c++) {
    CHECK(!(in32(UARTFR) & (FR_TXFF | FR_BUSY)));
    out32(UARTDR, (uint8_t)*c);
  }
  CHECK(host_got("hello\n"));
  out32(UARTCR, 0); /* and with everything off */
  out32(UARTDR, '.');
  CHECK(fake.sent_len == 7 && in32(UARTFR) == EMPTY);
  struct vmm_uart_counters c;
  pl011_read_counters(p, &c);
  CHECK(c.tx_bytes == 7 && c.rx_bytes == 0 && c.interrupts == 0);
  stop(p);
}

static void input_waits_for_the_guest(void) {
  struct pl011 *p = start(1000);
  char text[80];
  for (unsigned i = 0; i < sizeof text; i++) text[i] = (char)i;
  enable(INT_RX | INT_RT);
  size_t done = host_sends(text, sizeof text);
  CHECK(done == 32 && fake.level && fake.gsi == GSI);
  CHECK(in32(UARTFR) & FR_RXFF && in32(UARTMIS) == (INT_RX | INT_RT));
  for (unsigned i = 0; i < sizeof text; i++) {
    CHECK(!(in32(UARTFR) & FR_RXFE) && fake.level);
    CHECK(in32(UARTDR) == i);
    if (i % 32 == 31) {
      CHECK(fake.kicks == 1 + i / 32 && !fake.level); /* once per emptied FIFO */
      done += host_sends(text + done, sizeof text - done);
    }
  }
  CHECK(done == sizeof text && in32(UARTFR) & FR_RXFE && !fake.level);
  CHECK(fake.kicks == 2); /* the last sixteen left nobody waiting */
  stop(p);
}

static void without_fifos_one_byte_at_a_time(void) {
  struct pl011 *p = start(1000);
  CHECK(host_sends("ab", 2) == 1 && in32(UARTFR) & FR_RXFF);
  CHECK(in32(UARTRIS) == (INT_RX | INT_RT));
  CHECK(in32(UARTDR) == 'a' && fake.kicks == 1 && in32(UARTRIS) == 0);
  stop(p);
}

static void receive_levels(void) {
  static const unsigned level[] = {4, 8, 16, 24, 28};
  struct pl011 *p = start(1000);
  for (unsigned select = 0; select < 5; select++) {
    enable(INT_RX);
    out32(UARTIFLS, select << 3);
    for (unsigned n = 1; n <= 32; n++) {
      CHECK(host_sends("x", 1) == 1);
      CHECK(fake.level == (n >= level[select]));
    }
    for (unsigned n = 32; n; n--) {
      CHECK(fake.level == (n >= level[select]));
      in32(UARTDR);
    }
  }
  stop(p);
}

/* A driver that acknowledges first and reads later must not be left alone with what it has not read. */
static void acknowledged_input_is_not_lost(void) {
  struct pl011 *p = start(1000);
  enable(INT_RX | INT_RT);
  CHECK(host_sends("abc", 3) == 3 && fake.level);
  out32(UARTICR, INT_RX | INT_RT);
  CHECK(!fake.level);
  CHECK(in32(UARTDR) == 'a' && fake.level && in32(UARTMIS) == INT_RT); /* timed out again */
  out32(UARTICR, INT_RT);
  CHECK(host_sends("d", 1) == 1 && fake.level);
  CHECK(in32(UARTDR) == 'b' && in32(UARTDR) == 'c' && in32(UARTDR) == 'd' && !fake.level);
  stop(p);
}

static void receiver_off_holds_input_back(void) {
  struct pl011 *p = start(1000);
  out32(UARTCR, CR_TXE | 1);
  CHECK(host_sends("x", 1) == 0 && fake.kicks == 0);
  out32(UARTCR, CR_TXE | CR_RXE | 1);
  CHECK(fake.kicks == 1 && host_sends("x", 1) == 1 && in32(UARTDR) == 'x');
  stop(p);
}

static void loopback(void) {
  struct pl011 *p = start(1000);
  enable(INT_OE);
  out32(UARTCR, CR_LBE | CR_RXE | CR_TXE | 1 | CR_OUT1 | CR_RTS);
  CHECK((in32(UARTFR) & (FR_CTS | FR_DSR | FR_DCD | FR_RI)) == (FR_CTS | FR_DCD));
  CHECK(in32(UARTRIS) & INT_DSR); /* it went down */
  CHECK(host_sends("x", 1) == 0); /* the line is cut off */
  for (unsigned i = 0; i < 33; i++) out32(UARTDR, i);
  CHECK(fake.sent_len == 0 && fake.level && in32(UARTRSR) == RSR_OE);
  out32(UARTRSR, 0xff);
  CHECK(in32(UARTRSR) == 0);
  for (unsigned i = 0; i < 31; i++) CHECK(in32(UARTDR) == i);
  out32(UARTDR, 'y'); /* the first character after the lost one says so */
  CHECK(in32(UARTDR) == 31 && in32(UARTRSR) == 0);
  CHECK(in32(UARTDR) == ('y' | DR_OE) && in32(UARTRSR) == RSR_OE);
  out32(UARTICR, INT_OE);
  CHECK(!fake.level);
  out32(UARTCR, CR_RXE | CR_TXE | 1);
  CHECK(fake.kicks == 1 && host_sends("x", 1) == 1);
  stop(p);
}

/* The guest waits for an interrupt, the host makes room: the interrupt must come. */
static void full_host_announces_room(void) {
  struct pl011 *p = start(3);
  char text[41] = "0123456789012345678901234567890123456789";
  enable(INT_TX);
  unsigned n = 0;
  while (!(in32(UARTFR) & FR_TXFF)) out32(UARTDR, (uint8_t)text[n++]);
  CHECK(n == 35 && fake.sent_len == 3 && in32(UARTFR) & FR_BUSY && !(in32(UARTFR) & FR_TXFE) && !fake.level);
  out32(UARTDR, '!'); /* lost: nobody looked */
  host_has_room(0);
  CHECK(!fake.level);
  host_has_room(100);
  CHECK(fake.level && in32(UARTMIS) == INT_TX && in32(UARTFR) == EMPTY);
  out32(UARTICR, INT_TX);
  CHECK(!fake.level);
  while (n < 40) out32(UARTDR, (uint8_t)text[n++]);
  CHECK(host_got(text) && fake.level);
  struct vmm_uart_counters c;
  pl011_read_counters(p, &c);
  CHECK(c.tx_overruns == 1 && c.interrupts == fake.rises);
  stop(p);
}

static void polling_driver_sees_room(void) {
  struct pl011 *p = start(0);
  out32(UARTDR, 'A');
  CHECK(in32(UARTFR) & FR_TXFF);
  fake.room = 1;
  CHECK(in32(UARTFR) == EMPTY && host_got("A"));
  stop(p);
}

static void fifo_toggle_empties_the_receiver(void) {
  struct pl011 *p = start(100);
  enable(INT_RX | INT_RT);
  CHECK(host_sends("abc", 3) == 3 && fake.level);
  out32(UARTLCR_H, 0x60);
  CHECK(in32(UARTFR) & FR_RXFE && !fake.level);
  CHECK(host_sends("d", 1) == 1 && in32(UARTDR) == 'd');
  stop(p);
}

/* --- life cycle ---------------------------------------------------------------------- */

static void pause_takes_no_input(void) {
  struct pl011 *p = start(1000);
  pl011_pause(p, 1);
  CHECK(host_sends("x", 1) == 0 && fake.kicks == 0);
  pl011_pause(p, 0);
  CHECK(fake.kicks == 1 && host_sends("x", 1) == 1);
  stop(p);
}

static void save_and_restore(void) {
  struct pl011_state state, same;
  struct pl011 *p = start(0);
  enable(INT_RX | INT_RT);
  out32(UARTIBRD, 13);
  out32(UARTDR, 'T');
  host_sends("in", 2);
  pl011_pause(p, 1);
  pl011_save(p, &state);
  host_has_room(100);
  stop(p);
  CHECK(fake.sent_len == 0); /* what waits goes with the snapshot, not out here too */
  p = start(100);
  CHECK(!fake.level && pl011_restore(p, &state) == 0 && fake.level);
  pl011_save(p, &same);
  CHECK(!memcmp(&state, &same, sizeof state));
  CHECK(in32(UARTIBRD) == 13 && in32(UARTDR) == 'i' && in32(UARTDR) == 'n');
  struct pl011_state bad[] = {state, state, state, state, state, state, state};
  bad[0].rx_len = 33, bad[1].tx_len = ~0u, bad[2].lcr_h = 0, bad[3].ris = 1u << 7, bad[4].rx[0] = 0x100,
  bad[5].cr = 0x10000, bad[6].rx_len = 0;
  for (unsigned i = 0; i < 7; i++) CHECK(pl011_restore(p, &bad[i]) == -1);
  CHECK(in32(UARTFR) & FR_RXFE);
  stop(p);
  CHECK(host_got("T"));
}

static void reset_clears_the_registers(void) {
  struct pl011 *p = start(100);
  enable(0x7ff);
  out32(UARTFBRD, 9);
  host_sends("abc", 3);
  CHECK(fake.level);
  pl011_reset(p);
  CHECK(!fake.level && in32(UARTIMSC) == 0 && in32(UARTFBRD) == 0 && in32(UARTFR) == EMPTY && in32(UARTCR) == 0x300);
  stop(p);
}

static void null_host(void) {
  int error = 1;
  struct pl011 *p = pl011_new(&fake_api, NULL, ADDRESS, GSI, -1, -1, 0, &error);
  CHECK(p && !fake.open_chardevs);
  for (int i = 0; i < 1000; i++) out32(UARTDR, 'x');
  CHECK(in32(UARTFR) == EMPTY);
  stop(p);
}

static void failures_leave_nothing_behind(void) {
  int before = lowest_free_fd();
  int *const switches[] = {&fake.fail_bus, &fake.fail_chardev};
  for (unsigned i = 0; i < 2; i++) {
    int error = 0, in_fd = some_fd(), out_fd = some_fd();
    *switches[i] = 1;
    CHECK(!pl011_new(&fake_api, NULL, ADDRESS, GSI, in_fd, out_fd, 0, &error) && error < 0);
    *switches[i] = 0;
    CHECK(!fake.mapped && !fake.open_chardevs);
    CHECK(lowest_free_fd() == before); /* the fds are closed */
  }
  struct vmm_api other = fake_api;
  int error = 0;
  other.major++;
  CHECK(!pl011_new(&other, NULL, ADDRESS, GSI, some_fd(), some_fd(), 0, &error) && error == -ENOTSUP);
  CHECK(lowest_free_fd() == before);
}

/* --- several vCPUs, input and control at once: for the thread sanitizer -------------- */

static void *guest(void *seed) {
  unsigned dice = (unsigned)(uintptr_t)seed;
  for (int i = 0; i < 20000; i++) {
    uint64_t noise = ((uint64_t)rand_r(&dice) << 32) | (unsigned)rand_r(&dice);
    uint32_t size = 1u << (noise % 4), offset = (uint32_t)(noise >> 8) % 0x50;
    if ((noise >> 20) & 1) guest_write(offset, noise >> 24, size);
    else guest_read(offset, size);
  }
  return NULL;
}

static void *host(void *unused) {
  char text[64] = {0};
  for (int i = 0; i < 5000; i++) {
    host_sends(text, sizeof text);
    host_has_room((size_t)i % 7);
  }
  return unused;
}

static void threads(void) {
  struct pl011 *p = start(1);
  pthread_t t[3];
  pthread_create(&t[0], NULL, guest, (void *)1);
  pthread_create(&t[1], NULL, guest, (void *)2);
  pthread_create(&t[2], NULL, host, NULL);
  for (int i = 0; i < 500; i++) {
    struct pl011_state state;
    struct vmm_uart_counters counters;
    pl011_pause(p, 1);
    pl011_save(p, &state);
    CHECK(pl011_restore(p, &state) == 0);
    pl011_read_counters(p, &counters);
    pl011_pause(p, 0);
  }
  for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
  pl011_reset(p);
  stop(p);
}

int main(void) {
  devices_begin();
  after_reset();
  identification();
  registers_keep_the_bits_that_they_have();
  accesses_of_any_width();
  output_from_the_first_instruction();
  input_waits_for_the_guest();
  without_fifos_one_byte_at_a_time();
  receive_levels();
  acknowledged_input_is_not_lost();
  receiver_off_holds_input_back();
  loopback();
  full_host_announces_room();
  polling_driver_sees_room();
  fifo_toggle_empties_the_receiver();
  pause_takes_no_input();
  save_and_restore();
  reset_clears_the_registers();
  null_host();
  failures_leave_nothing_behind();
  threads();
  puts("ok");
  return 0;
}
