/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port against a core made of a few arrays: flow, interrupts, life cycle, threads.
 * Built with sanitizers and run by test_native.py. */
#include "fake_devices.h"

#include "serial.h"

/* --- the guest ------------------------------------------------------------------- */

static void out(unsigned port, uint8_t value) { fake.io(fake.io_opaque, port, &value, 1, 1); }
static uint8_t in(unsigned port) {
  uint8_t value = 0xff;
  fake.io(fake.io_opaque, port, &value, 1, 0);
  return value;
}

static struct serial *start(size_t room) {
  int error = 1, in_fd = some_fd(), out_fd = some_fd();
  fake.room = room;
  fake.sent_len = fake.kicks = 0;
  struct serial *s = serial_new(&fake_api, NULL, 0x3f8, 4, in_fd, out_fd, 0, &error);
  CHECK(s && error == 0 && fake.mapped == 1 && fake.gsi == 4);
  CHECK(fake.space == VMM_PIO && fake.base == 0x3f8 && fake.len == 8);
  CHECK(fake.rx(fake.rx_opaque, (const uint8_t *)"x", 1) == 0); /* not yet */
  serial_pause(s, 0);
  CHECK(fake.kicks == 1); /* now it may come */
  fake.kicks = 0;
  return s;
}
static void stop(struct serial *s) {
  serial_free(s);
  CHECK(!fake.mapped && !fake.open_chardevs);
}

/* --- cases ------------------------------------------------------------------------ */

static void output(void) {
  struct serial *s = start(1000);
  for (const char *p = "hello\n"; *p; p++) out(UART_THR, (uint8_t)*p);
  CHECK(fake.sent_len == 6 && !memcmp(fake.sent, "hello\n", 6));
  struct vmm_uart_counters c;
  serial_read_counters(s, &c);
  CHECK(c.tx_bytes == 6 && c.rx_bytes == 0 && c.interrupts == 0);
  stop(s);
}

static void wide_access_is_its_bytes(void) {
  struct serial *s = start(1000);
  uint8_t two[2] = {'A', IER_RDA}; /* THR and IER */
  fake.io(fake.io_opaque, 0, two, 2, 1);
  CHECK(fake.sent_len == 1 && fake.sent[0] == 'A' && in(UART_IER) == IER_RDA);
  uint8_t four[4] = {0};
  out(UART_SCR, 0x5a);
  fake.io(fake.io_opaque, 4, four, 4, 0);
  CHECK(four[1] == 0x60 && four[3] == 0x5a);
  uint8_t eight[8];
  fake.io(fake.io_opaque, 0, eight, 8, 0);
  CHECK(eight[7] == 0x5a);
  stop(s);
}

static void input_waits_for_the_guest(void) {
  struct serial *s = start(1000);
  uint8_t text[40];
  for (unsigned i = 0; i < sizeof text; i++) text[i] = (uint8_t)i;
  out(UART_FCR, FCR_ENABLE);
  out(UART_IER, IER_RDA);
  size_t done = fake.rx(fake.rx_opaque, text, sizeof text);
  CHECK(done == 16 && edges() == 1);
  for (unsigned i = 0; i < sizeof text; i++) {
    CHECK(in(UART_LSR) & LSR_DR);
    CHECK(in(UART_RBR) == i);
    if (i % 16 == 15) {
      CHECK(fake.kicks == 1 + i / 16); /* once per emptied FIFO */
      done += fake.rx(fake.rx_opaque, text + done, sizeof text - done);
    }
  }
  CHECK(done == sizeof text && !(in(UART_LSR) & LSR_DR));
  CHECK(fake.kicks == 2); /* the last eight left nobody waiting */
  stop(s);
}

static void pause_takes_no_input(void) {
  struct serial *s = start(1000);
  serial_pause(s, 1);
  CHECK(fake.rx(fake.rx_opaque, (const uint8_t *)"x", 1) == 0);
  CHECK(fake.kicks == 0);
  serial_pause(s, 0);
  CHECK(fake.kicks == 1);
  CHECK(fake.rx(fake.rx_opaque, (const uint8_t *)"x", 1) == 1);
  stop(s);
}

static void loopback_ends_with_a_kick(void) {
  struct serial *s = start(1000);
  out(UART_MCR, MCR_LOOP);
  CHECK(fake.rx(fake.rx_opaque, (const uint8_t *)"x", 1) == 0 && fake.kicks == 0);
  out(UART_MCR, 0);
  CHECK(fake.kicks == 1);
  stop(s);
}

/* The guest waits for an interrupt, the host makes room: the interrupt must come. */
static void full_host_announces_room(void) {
  struct serial *s = start(3);
  out(UART_FCR, FCR_ENABLE);
  out(UART_IER, IER_THRE);
  CHECK(edges() == 1 && (in(UART_IIR) & 0x0f) == IIR_THRE);
  for (const char *p = "0123456789"; *p; p++) out(UART_THR, (uint8_t)*p);
  CHECK(fake.sent_len == 3 && !(in(UART_LSR) & (LSR_THRE | LSR_TEMT)));
  edges();
  fake.rx(fake.rx_opaque, NULL, 0);
  CHECK(edges() == 0); /* still full */
  fake.room = 100;
  fake.rx(fake.rx_opaque, NULL, 0);
  CHECK(edges() == 1 && (in(UART_IIR) & 0x0f) == IIR_THRE && in(UART_LSR) & LSR_TEMT);
  CHECK(fake.sent_len == 10 && !memcmp(fake.sent, "0123456789", 10));
  fake.rx(fake.rx_opaque, NULL, 0); /* nothing waits: nothing happens */
  CHECK(edges() == 0);
  stop(s);
}

static void save_and_restore(void) {
  struct uart16550_state state;
  struct serial *s = start(0);
  out(UART_FCR, FCR_ENABLE);
  out(UART_IER, IER_RDA);
  out(UART_THR, 'T');
  fake.rx(fake.rx_opaque, (const uint8_t *)"in", 2);
  serial_pause(s, 1);
  serial_save(s, &state);
  fake.room = 100;
  fake.rx(fake.rx_opaque, NULL, 0);
  stop(s);
  CHECK(fake.sent_len == 0); /* what waits goes with the snapshot, not out here too */
  s = start(100);
  CHECK(serial_restore(s, &state) == 0 && edges() == 1);
  CHECK(in(UART_RBR) == 'i' && in(UART_RBR) == 'n');
  state.rx_len = 200;
  CHECK(serial_restore(s, &state) == -1);
  stop(s);
  CHECK(fake.sent_len == 1 && fake.sent[0] == 'T');
}

static void reset_clears_the_registers(void) {
  struct serial *s = start(100);
  out(UART_IER, 0x0f);
  out(UART_SCR, 9);
  fake.rx(fake.rx_opaque, (const uint8_t *)"abc", 3);
  serial_reset(s);
  CHECK(in(UART_IER) == 0 && in(UART_SCR) == 0 && in(UART_LSR) == (LSR_THRE | LSR_TEMT));
  CHECK(fake.kicks == 1); /* the two bytes that did not fit may come now */
  stop(s);
}

static void null_host(void) {
  int error = 1;
  struct serial *s = serial_new(&fake_api, NULL, 0x3f8, 4, -1, -1, 0, &error);
  CHECK(s && !fake.open_chardevs);
  for (int i = 0; i < 1000; i++) out(UART_THR, 'x');
  CHECK(in(UART_LSR) & LSR_TEMT);
  stop(s);
}

static void failures_leave_nothing_behind(void) {
  int before = lowest_free_fd();
  int *const switches[] = {&fake.fail_bus, &fake.fail_irqfd, &fake.fail_chardev};
  for (unsigned i = 0; i < 3; i++) {
    int error = 0, in_fd = some_fd(), out_fd = some_fd();
    *switches[i] = 1;
    CHECK(!serial_new(&fake_api, NULL, 0x3f8, 4, in_fd, out_fd, 0, &error) && error < 0);
    *switches[i] = 0;
    CHECK(!fake.mapped && !fake.open_chardevs);
    CHECK(lowest_free_fd() == before); /* the fds are closed */
  }
  struct vmm_api other = fake_api;
  int error = 0;
  other.major++;
  CHECK(!serial_new(&other, NULL, 0x3f8, 4, -1, -1, 0, &error) && error == -ENOTSUP);
}

/* --- several vCPUs, input and control at once: for the thread sanitizer -------------- */

static void *guest(void *seed) {
  unsigned dice = (unsigned)(uintptr_t)seed;
  for (int i = 0; i < 20000; i++) {
    uint8_t data[8];
    uint64_t noise = ((uint64_t)rand_r(&dice) << 32) | (unsigned)rand_r(&dice);
    uint32_t size = 1u << (noise % 4), offset = (uint32_t)(noise >> 8) % (9 - size);
    memcpy(data, &noise, 8);
    fake.io(fake.io_opaque, offset, data, size, (noise >> 20) & 1);
  }
  return NULL;
}

static void *host(void *unused) {
  uint8_t text[64] = {0};
  for (int i = 0; i < 5000; i++) {
    fake.rx(fake.rx_opaque, text, sizeof text);
    fake.rx(fake.rx_opaque, NULL, 0);
    pthread_mutex_lock(&fake.lock);
    fake.room = (size_t)i % 7;
    pthread_mutex_unlock(&fake.lock);
  }
  return unused;
}

static void threads(void) {
  struct serial *s = start(1);
  pthread_t t[3];
  pthread_create(&t[0], NULL, guest, (void *)1);
  pthread_create(&t[1], NULL, guest, (void *)2);
  pthread_create(&t[2], NULL, host, NULL);
  for (int i = 0; i < 500; i++) {
    struct uart16550_state state;
    struct vmm_uart_counters counters;
    serial_pause(s, 1);
    serial_save(s, &state);
    CHECK(serial_restore(s, &state) == 0);
    serial_read_counters(s, &counters);
    serial_pause(s, 0);
  }
  for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
  serial_reset(s);
  stop(s);
}

int main(void) {
  devices_begin();
  output();
  wide_access_is_its_bytes();
  input_waits_for_the_guest();
  pause_takes_no_input();
  loopback_ends_with_a_kick();
  full_host_announces_room();
  save_and_restore();
  reset_clears_the_registers();
  null_host();
  failures_leave_nothing_behind();
  threads();
  puts("ok");
  return 0;
}
