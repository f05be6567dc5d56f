/* SPDX-License-Identifier: Apache-2.0 */
/* The console's data plane against a core made of arrays. Built with sanitizers, run by test_console_native.py. */
#define _GNU_SOURCE
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>

#include "driver.h"

static vmm_chardev *tty = &fake_chardevs[0];

/* --- one port --- */

static void output_and_input_keep_their_bytes(void) {
  make((struct console_port[]){chardev_port(NULL)}, 1);
  begin(2, 0);
  send_out(TX0, "hello ");
  struct iovec iov[] = {{"wor", 3}, {"", 0}, {"ld\n", 3}};
  CHECK(submit(queue[TX0], iov, 3, 0));
  UNTIL(seen(queue[TX0]) == 2);
  CHECK(tty->sent_len == 12 && !memcmp(tty->sent, "hello world\n", 12));

  char a[3], b[10];
  struct iovec in[] = {{"out", 3}, {a, sizeof a}, {b, sizeof b}};
  struct fake_request *request = submit(queue[RX0], in, 1, 2);
  turn(5);
  chardev_type(tty, "typed", 5);
  chardev_pump(tty);
  UNTIL(seen(queue[RX0]) == 1);
  CHECK(request->written == 5 && !memcmp(a, "typ", 3) && !memcmp(b, "ed", 2));
  CHECK(counted("tx_bytes") == 12 && counted("rx_bytes") == 5);

  submit(queue[RX0], NULL, 0, 0); /* nothing to fill */
  UNTIL(seen(queue[RX0]) == 2);
  unmake();
}

/* What nobody can take yet stays where it is: with the host. */
static void input_waits_on_the_host_for_buffers(void) {
  static uint8_t data[30000], got[30000];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 7 + i / 256);
  make((struct console_port[]){chardev_port(NULL)}, 1);
  chardev_type(tty, data, sizeof data);
  chardev_pump(tty);
  CHECK(tty->in_at == 0); /* no driver yet */
  begin(2, 0);
  turn(5);
  chardev_pump(tty);
  CHECK(tty->in_at == 0); /* and now no buffer */
  size_t done = 0;
  for (size_t size = 1; done < sizeof data; size = size * 3 % 509 + 1) {
    unsigned before = seen(queue[RX0]);
    size_t room = size < sizeof got - done ? size : sizeof got - done;
    struct fake_request *r = submit_in(queue[RX0], got + done, room);
    turn(0);
    for (int i = 0; i < 5 && seen(queue[RX0]) == before; i++) {
      chardev_pump(tty);
      turn(0);
    }
    UNTIL(seen(queue[RX0]) == before + 1);
    CHECK(r->written > 0);
    done += r->written;
    CHECK(tty->in_at <= done + CONSOLE_INPUT); /* at most this much has left the host */
  }
  CHECK(!memcmp(got, data, sizeof data));
  unmake();
}

/* A host that takes little at a time; a reset and a pause in the middle. */
static void output_waits_for_the_host(void) {
  static uint8_t data[5000];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 13 + i / 256);
  make((struct console_port[]){chardev_port(NULL)}, 1);
  begin(2, 0);
  tty->room = 0;
  submit(queue[TX0], (struct iovec[]){{data, 2000}, {data + 2000, 3000}}, 2, 0);
  turn(5);
  CHECK(seen(queue[TX0]) == 0 && tty->sent_len == 0 && queue[TX0]->next == 0 && !queue[TX0]->notify);
  for (size_t room = 1; tty->sent_len < 2500; room += 97) {
    chardev_make_room(tty, room);
    turn(1);
  }
  size_t sent = tty->sent_len;
  struct console_port_state state;
  end(); /* a pause */
  console_save(console, 0, &state);
  CHECK(state.tx_done == sent);
  CHECK(!console_restore(console, 0, &state));
  resume(0);
  turn(5);
  chardev_make_room(tty, 100000);
  UNTIL(seen(queue[TX0]) == 1);
  CHECK(tty->sent_len == sizeof data && !memcmp(tty->sent, data, sizeof data));

  tty->room = 10;
  submit_out(queue[TX0], data, 100);
  turn(5);
  end(); /* a reset: the rest of it is gone, and the next request begins at its beginning */
  begin(2, 0);
  tty->room = 1000;
  send_out(TX0, "fresh");
  CHECK(!memcmp(tty->sent + tty->sent_len - 5, "fresh", 5));
  unmake();
}

static void null_port_takes_everything(void) {
  make((struct console_port[]){null_port(NULL)}, 1);
  begin(2, 0);
  for (int i = 0; i < 300; i++) send_out(TX0, "into the void");
  static uint8_t buffer[16];
  submit_in(queue[RX0], buffer, sizeof buffer);
  turn(5);
  CHECK(seen(queue[RX0]) == 0);
  unmake();
}

static void huge_request_lets_others_have_their_turn(void) {
  static uint8_t big[1 << 20];
  memset(big, 'x', sizeof big);
  make((struct console_port[]){chardev_port(NULL)}, 1);
  begin(2, 0);
  submit_out(queue[TX0], big, sizeof big);
  while (!tty->sent_len) turn_loop(&fake_loops[1], 1000);
  CHECK(tty->sent_len < sizeof big);
  UNTIL(seen(queue[TX0]) == 1);
  CHECK(tty->sent_len == sizeof big);
  unmake();
}

/* --- several ports --- */

static void driver_opens(uint32_t id) {
  say(id, PORT_READY, 1);
  if (!id) expect(0, CONSOLE_PORT, 1, NULL, 0);
}

static void ports_are_announced_named_and_opened(void) {
  make((struct console_port[]){chardev_port(NULL), null_port("org.example.one"), null_port("two")}, 3);
  begin(8, CONSOLE_F_MULTIPORT);
  say(0xffffffff, DEVICE_READY, 1);
  for (uint32_t id = 0; id < 3; id++) expect(id, DEVICE_ADD, 1, NULL, 0);
  driver_opens(0);
  expect(0, PORT_OPEN, 1, NULL, 0);
  say(2, PORT_READY, 1);
  expect(2, PORT_NAME, 1, "two", 3);
  expect(2, PORT_OPEN, 1, NULL, 0);
  say(1, PORT_READY, 1);
  expect(1, PORT_NAME, 1, "org.example.one", 15);
  expect(1, PORT_OPEN, 1, NULL, 0);
  expect_silence();
  unmake();
}

static void input_waits_until_the_guest_opens_the_port(void) {
  make((struct console_port[]){null_port(NULL), chardev_port("one")}, 2);
  begin(6, CONSOLE_F_MULTIPORT);
  char buffer[8];
  submit_in(queue[RX1], buffer, sizeof buffer);
  chardev_type(tty, "early", 5);
  turn(5);
  chardev_pump(tty);
  turn(5);
  CHECK(seen(queue[RX1]) == 0 && tty->in_at == 0);
  say(1, PORT_OPEN, 1);
  turn(5);
  chardev_pump(tty);
  UNTIL(seen(queue[RX1]) == 1);
  CHECK(!memcmp(buffer, "early", 5));
  say(1, PORT_OPEN, 0);
  submit_in(queue[RX1], buffer, sizeof buffer);
  chardev_type(tty, "late", 4);
  turn(5);
  chardev_pump(tty);
  turn(5);
  CHECK(seen(queue[RX1]) == 1);
  end(); /* the driver goes; what was typed is for the next one */
  begin(6, CONSOLE_F_MULTIPORT);
  submit_in(queue[RX1], buffer, sizeof buffer);
  say(1, PORT_OPEN, 1);
  turn(5);
  chardev_pump(tty);
  UNTIL(seen(queue[RX1]) == 1);
  CHECK(!memcmp(buffer, "late", 4));
  unmake();
}

static void driver_without_multiport_gets_the_console(void) {
  make((struct console_port[]){chardev_port(NULL), null_port("one")}, 2);
  begin(6, 0);
  send_out(TX0, "plain");
  CHECK(tty->sent_len == 5);
  submit_out(queue[TX1], "x", 1);
  turn(5);
  CHECK(seen(queue[TX1]) == 0);
  unmake();
}

static void malformed_messages_are_ignored(void) {
  make((struct console_port[]){chardev_port(NULL), null_port("one")}, 2);
  begin(6, CONSOLE_F_MULTIPORT);
  for (uint16_t event = 0; event < 20; event++) {
    say(2, event, 1);
    say(0xfffffffe, event, 0);
  }
  UNTIL(seen(queue[CONTROL_TX]) == 40);
  say(0, DEVICE_READY, 0); /* what the DEVICE_READY among them has made */
  say(0, 0xffff, 1);
  send_out(CONTROL_TX, "short");
  CHECK(submit(queue[CONTROL_TX], NULL, 0, 0));
  uint8_t tiny[7];
  submit_in(queue[CONTROL_TX], tiny, sizeof tiny);
  submit_in(queue[CONTROL_RX], tiny, sizeof tiny); /* no room for any message: given back */
  UNTIL(seen(queue[CONTROL_RX]) == 1);
  expect_silence();
  say(0, DEVICE_READY, 1);
  UNTIL(seen(queue[CONTROL_RX]) == 2);
  unmake();
}

/* The messages that wait for a driver that never takes any are bounded, and tell what is so in the end. */
static void many_questions_have_few_answers(void) {
  make((struct console_port[]){chardev_port(NULL), null_port("one")}, 2);
  begin(6, CONSOLE_F_MULTIPORT);
  for (int i = 0; i < 5000; i++) {
    say(0, DEVICE_READY, 1);
    say(1, PORT_READY, i & 1);
  }
  expect(0, DEVICE_ADD, 1, NULL, 0);
  expect(1, PORT_NAME, 1, "one", 3);
  expect(1, PORT_OPEN, 1, NULL, 0);
  expect_silence();
  unmake();
}

static void name_is_cut_to_the_buffer(void) {
  make((struct console_port[]){null_port(NULL), null_port("a name")}, 2);
  begin(6, CONSOLE_F_MULTIPORT);
  say(1, PORT_READY, 1);
  uint8_t m[10], rest[8];
  struct fake_request *r = submit(queue[CONTROL_RX], (struct iovec[]){{m, 3}, {m + 3, 7}}, 0, 2);
  UNTIL(seen(queue[CONTROL_RX]) == 1);
  CHECK(r->written == 10 && vmm_load(m + 4, 2) == PORT_NAME && !memcmp(m + 8, "a ", 2));
  submit_in(queue[CONTROL_RX], rest, sizeof rest);
  UNTIL(seen(queue[CONTROL_RX]) == 2);
  CHECK(vmm_load(rest + 4, 2) == PORT_OPEN);
  unmake();
}

static void state_moves_to_another_console(void) {
  struct console_port_state state[2];
  make((struct console_port[]){null_port(NULL), chardev_port("one")}, 2);
  begin(6, CONSOLE_F_MULTIPORT);
  say(1, PORT_READY, 1);
  say(1, PORT_OPEN, 1);
  expect(1, PORT_NAME, 1, "one", 3);
  char small[2], rest[20];
  submit_in(queue[RX1], small, 2);
  turn(5);
  chardev_type(tty, "abcdef", 6);
  chardev_pump(tty);
  UNTIL(seen(queue[RX1]) == 1);
  end();
  for (unsigned i = 0; i < 2; i++) console_save(console, i, &state[i]);
  CHECK(state[1].in_len == 4 && state[1].ready && state[1].guest_open && !state[0].ready);
  unmake();

  make((struct console_port[]){null_port(NULL), chardev_port("one")}, 2);
  state[1].in_len = CONSOLE_INPUT + 1;
  CHECK(console_restore(console, 1, &state[1]) == -EINVAL);
  state[1].in_len = 4;
  CHECK(console_restore(console, 2, &state[1]) == -EINVAL);
  for (unsigned i = 0; i < 2; i++) CHECK(!console_restore(console, i, &state[i]));
  begin_as(6, CONSOLE_F_MULTIPORT, 0);
  submit_in(queue[RX1], rest, sizeof rest);
  UNTIL(seen(queue[RX1]) == 1);
  CHECK(!memcmp(rest, "cdef", 4));
  expect(1, PORT_OPEN, 1, NULL, 0);
  unmake();
}

/* --- terminal size --- */

static void size_of_the_terminal_is_told(void) {
  int master, slave;
  struct winsize size = {.ws_col = 80, .ws_row = 24};
  CHECK(!openpty(&master, &slave, NULL, NULL, &size));
  struct console_port tty_port = {.in_fd = dup(slave), .out_fd = dup(slave), .listen_fd = -1, .flags = CONSOLE_TERMINAL};
  make((struct console_port[]){tty_port, null_port("one")}, 2);
  CHECK(!(tty->flags & CONSOLE_TERMINAL));
  uint16_t cols, rows;
  CHECK(console_size(console, &cols, &rows) && cols == 80 && rows == 24);
  begin(6, CONSOLE_F_MULTIPORT);
  driver_opens(0);
  expect(0, RESIZE, 0, "\x50\0\x18\0", 4);
  expect(0, PORT_OPEN, 1, NULL, 0);
  eventfd_t value;
  CHECK(eventfd_read(console_notice_fd(console), &value) < 0);

  size = (struct winsize){.ws_col = 132, .ws_row = 50};
  ioctl(master, TIOCSWINSZ, &size);
  kill(getpid(), SIGWINCH);
  UNTIL(!eventfd_read(console_notice_fd(console), &value));
  CHECK(console_size(console, &cols, &rows) && cols == 132 && rows == 50);
  expect(0, RESIZE, 0, "\x84\0\x32\0", 4);

  size.ws_row = 51; /* no signal, as with a pty: seen with the next key */
  ioctl(master, TIOCSWINSZ, &size);
  tty->rx(tty->opaque, (const uint8_t *)"k", 1);
  expect(0, RESIZE, 0, "\x84\0\x33\0", 4);
  unmake();
  close(master), close(slave);
}

/* --- life --- */

static void nothing_is_left_when_it_cannot_be_made(void) {
  int error = 0, before = some_fd();
  struct console_port none[1] = {null_port(NULL)};
  core_begin();
  fake_chardev_begin();
  CHECK(!console_new(&fake_api, NULL, "console0", none, 0, 0, &error) && error == -EINVAL);
  fake_chardev_fails = true;
  struct console_port ports[] = {socket_port(NULL), chardev_port("one"), socket_port("two")};
  CHECK(!console_new(&fake_api, NULL, "console0", ports, 3, 0, &error) && error == -EIO);
  fake_api.minor = 0;
  struct console_port again[] = {chardev_port(NULL)};
  CHECK(!console_new(&fake_api, NULL, "console0", again, 1, 0, &error) && error == -ENOTSUP);
  fake_api.minor = VMM_API_MINOR;
  core_end();
  int after = some_fd();
  CHECK(after == before + 1); /* the lowest number that is free: none was kept */
  close(before), close(after);
}

static void *typist(void *arg) {
  int *stop = arg;
  while (!__atomic_load_n(stop, __ATOMIC_SEQ_CST)) {
    if (tty->in_len > sizeof tty->in - 100) tty->in_len = tty->in_at = 0;
    chardev_type(tty, "lots of input ", 14);
    chardev_pump(tty);
    pthread_mutex_lock(&tty->lock);
    tty->sent_len = 0;
    pthread_mutex_unlock(&tty->lock);
    chardev_make_room(tty, 1000);
    sched_yield();
  }
  return NULL;
}

/* Buffers are freed as soon as the device has stopped: the sanitizer sees a late access. */
static void stops_any_number_of_times_under_io(void) {
  int stop = 0;
  pthread_t thread;
  make((struct console_port[]){chardev_port(NULL), socket_port("one")}, 2);
  loops_run();
  CHECK(!pthread_create(&thread, NULL, typist, &stop));
  for (unsigned round = 0; round < 200; round++) {
    begin(round % 3 ? 6 : 2, round % 3 ? CONSOLE_F_MULTIPORT : 0);
    uint8_t *buffer = malloc(5000), *messages = buffer + 3000, *in = buffer + 4000;
    memset(buffer, 'x', 3000);
    for (unsigned i = 0; i < 16; i++)
      vmm_store(messages + 8 * i, 4, i & 1), vmm_store(messages + 8 * i + 4, 2, i / 2), vmm_store(messages + 8 * i + 6, 2, 1);
    int client = try_connect();
    if (client >= 0) CHECK(send(client, "hello", 5, MSG_NOSIGNAL) == 5);
    for (unsigned i = 0; i < 60 + round; i++) {
      submit_in(queue[RX0], in, 100);
      submit_out(queue[TX0], buffer, 700);
      if (n_queues == 2) continue;
      submit_out(queue[CONTROL_TX], messages + 8 * (i % 16), 8);
      submit_in(queue[CONTROL_RX], in + 200, 50);
      submit_out(queue[TX1], buffer, 3000);
      submit_in(queue[RX1], in + 400, 100);
    }
    if (round & 1 && client >= 0) close(client);
    end();
    free(buffer);
    if (!(round & 1) && client >= 0) close(client);
  }
  begin(6, CONSOLE_F_MULTIPORT); /* it still works */
  int client;
  UNTIL((client = try_connect()) >= 0);
  char byte;
  UNTIL((submit_out(queue[TX1], "x", 1), read(client, &byte, 1) == 1));
  end();
  close(client);
  __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
  pthread_join(thread, NULL);
  console_free(console);
  loops_end();
  core_end();
}

void test_sockets(void);

int main(void) {
  output_and_input_keep_their_bytes();
  input_waits_on_the_host_for_buffers();
  output_waits_for_the_host();
  null_port_takes_everything();
  huge_request_lets_others_have_their_turn();
  ports_are_announced_named_and_opened();
  input_waits_until_the_guest_opens_the_port();
  driver_without_multiport_gets_the_console();
  malformed_messages_are_ignored();
  many_questions_have_few_answers();
  name_is_cut_to_the_buffer();
  state_moves_to_another_console();
  size_of_the_terminal_is_told();
  nothing_is_left_when_it_cannot_be_made();
  test_sockets();
  stops_any_number_of_times_under_io();
  puts("ok");
}
