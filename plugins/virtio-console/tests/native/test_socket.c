/* SPDX-License-Identifier: Apache-2.0 */
/* Ports on a listening socket: clients come, wait, go in every way. */
#define _GNU_SOURCE
#include "driver.h"

static size_t read_some(int fd, char *to, size_t size) {
  ssize_t n = recv(fd, to, size, MSG_DONTWAIT);
  return n > 0 ? (size_t)n : 0;
}

static void start_one(void) {
  make((struct console_port[]){socket_port(NULL)}, 1);
  begin(2, 0);
}

static void client_talks_both_ways(void) {
  char buffer[100];
  start_one();
  int client = connect_client();
  turn(5);
  send_out(TX0, "from the guest");
  CHECK(read_some(client, buffer, sizeof buffer) == 14 && !memcmp(buffer, "from the guest", 14));
  CHECK(send(client, "to the guest", 12, MSG_NOSIGNAL) == 12);
  receive(RX0, "to the guest");
  close(client);
  unmake();
}

static void output_without_a_client_is_dropped_and_counted(void) {
  start_one();
  send_out(TX0, "nobody");
  CHECK(counted("tx_dropped") == 6);
  unmake();
}

/* A client that came and spoke before there was a driver. */
static void early_client_is_heard(void) {
  make((struct console_port[]){socket_port(NULL)}, 1);
  int client = connect_client();
  CHECK(send(client, "early", 5, MSG_NOSIGNAL) == 5);
  turn(5);
  begin(2, 0);
  receive(RX0, "early");
  close(client);
  unmake();
}

static void slow_client_holds_the_guest_back(void) {
  static uint8_t data[400000], got[400000];
  for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 11 + i / 256);
  start_one();
  int client = connect_client();
  turn(5);
  size_t given = 0, have = 0;
  for (int idle = 0; have < sizeof data; idle++) {
    CHECK(idle < 5000);
    for (size_t n; given < sizeof data; given += n) {
      n = sizeof data - given < 7777 ? sizeof data - given : 7777;
      if (!submit_out(queue[TX0], data + given, n)) break;
    }
    turn(1);
    if (given < sizeof data) CHECK(seen(queue[TX0]) * 7777ul < have + 4000000);
    size_t n = read_some(client, (char *)got + have, sizeof got - have < 10000 ? sizeof got - have : 10000);
    have += n;
    if (n) idle = 0;
  }
  CHECK(!memcmp(got, data, sizeof data) && counted("tx_dropped") == 0);
  close(client);
  unmake();
}

/* The guest that was held back goes on when the client goes. */
static void stuck_output_is_let_go(void) {
  static uint8_t data[8 << 20];
  start_one();
  int client = connect_client();
  turn(5);
  submit_out(queue[TX0], data, sizeof data);
  turn(5);
  CHECK(seen(queue[TX0]) == 0);
  close(client);
  UNTIL(seen(queue[TX0]) == 1);
  CHECK(counted("tx_dropped") > 0);
  unmake();
}

static void last_words_arrive(void) {
  start_one();
  int client = connect_client();
  turn(5);
  CHECK(send(client, "last words", 10, MSG_NOSIGNAL) == 10);
  close(client);
  turn(5);
  receive(RX0, "last words");
  turn(5);
  client = connect_client();
  CHECK(send(client, "first words", 11, MSG_NOSIGNAL) == 11);
  receive(RX0, "first words");
  close(client);
  unmake();
}

/* It has said all, and goes on listening. */
static void half_closed_client_gets_its_answer(void) {
  char buffer[10];
  start_one();
  int client = connect_client();
  CHECK(send(client, "ask", 3, MSG_NOSIGNAL) == 3 && !shutdown(client, SHUT_WR));
  receive(RX0, "ask");
  submit_in(queue[RX0], buffer, sizeof buffer);
  turn(5);
  send_out(TX0, "answer");
  CHECK(read_some(client, buffer, sizeof buffer) == 6);
  close(client);
  unmake();
}

static void second_client_has_its_turn(void) {
  char buffer[10];
  start_one();
  int first = connect_client(), second = connect_client();
  CHECK(send(second, "two", 3, MSG_NOSIGNAL) == 3);
  turn(5);
  send_out(TX0, "one");
  CHECK(read_some(first, buffer, sizeof buffer) == 3 && read_some(second, buffer, sizeof buffer) == 0);
  close(first);
  receive(RX0, "two");
  close(second);
  unmake();
}

/* One that is gone does not keep the port when the guest has it closed. */
static void unread_words_make_way(void) {
  char buffer[10];
  for (int early = 0; early < 2; early++) {
    make((struct console_port[]){null_port(NULL), socket_port("one")}, 2);
    begin(6, CONSOLE_F_MULTIPORT);
    if (!early) say(1, PORT_OPEN, 1);
    int first = connect_client();
    CHECK(send(first, "unread", 6, MSG_NOSIGNAL) == 6);
    turn(5);
    close(first);
    turn(5);
    int second = connect_client();
    turn(5);
    if (!early) { /* they are still for the guest, until it closes the port */
      send_out(TX1, "?");
      CHECK(read_some(second, buffer, sizeof buffer) == 0);
      say(1, PORT_OPEN, 0);
      turn(5);
    }
    send_out(TX1, "two");
    CHECK(read_some(second, buffer, sizeof buffer) == 3);
    close(second);
    unmake();
  }
}

static void guest_hears_who_is_there(void) {
  make((struct console_port[]){null_port(NULL), socket_port("one")}, 2);
  begin(6, CONSOLE_F_MULTIPORT);
  say(1, PORT_READY, 1);
  expect(1, PORT_NAME, 1, "one", 3);
  expect(1, PORT_OPEN, 0, NULL, 0);
  int client = connect_client();
  turn(5);
  expect(1, PORT_OPEN, 1, NULL, 0);
  close(client);
  turn(5);
  expect(1, PORT_OPEN, 0, NULL, 0);
  client = connect_client(); /* gone and back before the driver had a buffer: the last state counts */
  turn(5);
  close(client);
  turn(5);
  client = connect_client();
  turn(5);
  expect(1, PORT_OPEN, 1, NULL, 0);
  expect_silence();
  close(client);
  unmake();
}

static void clients_stay_over_a_reset(void) {
  char buffer[10];
  start_one();
  int client = connect_client();
  turn(5);
  for (int i = 0; i < 3; i++) {
    send_out(TX0, "x");
    CHECK(read_some(client, buffer, sizeof buffer) == 1);
    end();
    begin(2, 0);
  }
  CHECK(send(client, "still", 5, MSG_NOSIGNAL) == 5);
  receive(RX0, "still");
  close(client);
  unmake();
}

void test_sockets(void);
void test_sockets(void) {
  client_talks_both_ways();
  output_without_a_client_is_dropped_and_counted();
  early_client_is_heard();
  slow_client_holds_the_guest_back();
  stuck_output_is_let_go();
  last_words_arrive();
  half_closed_client_gets_its_answer();
  second_client_has_its_turn();
  unread_words_make_way();
  guest_hears_who_is_there();
  clients_stay_over_a_reset();
}
