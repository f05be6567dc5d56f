/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the data plane share: a console, its driver, its queues by name. */
#ifndef DRIVER_H
#define DRIVER_H

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "console.h"
#include "fake_chardev.h"

enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1, RX2, TX2 };
enum { DEVICE_READY, DEVICE_ADD, DEVICE_REMOVE, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME };

static struct console *console;
static vmm_queue *queue[FAKE_QUEUES];
static unsigned n_queues;

static inline int some_fd(void) {
  int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  return fd;
}

/* A port on a chardev. */
static inline struct console_port chardev_port(const char *name) {
  int fd = some_fd();
  return (struct console_port){.name = name, .in_fd = fd, .out_fd = fd, .listen_fd = -1};
}

static inline struct console_port null_port(const char *name) {
  return (struct console_port){.name = name, .in_fd = -1, .out_fd = -1, .listen_fd = -1};
}

static struct sockaddr_un address;

/* A port that listens in the abstract namespace. */
static inline struct console_port socket_port(const char *name) {
  static unsigned number;
  address = (struct sockaddr_un){.sun_family = AF_UNIX};
  snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "test-console-%d-%u", (int)getpid(), number++);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  CHECK(!bind(fd, (struct sockaddr *)&address, sizeof address) && !listen(fd, 4));
  return (struct console_port){.name = name, .in_fd = -1, .out_fd = -1, .listen_fd = fd};
}

/* -1: too many are waiting. */
static inline int try_connect(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (!connect(fd, (struct sockaddr *)&address, sizeof address)) return fd;
  CHECK(errno == EAGAIN);
  close(fd);
  return -1;
}

static inline int connect_client(void) {
  int fd = try_connect();
  CHECK(fd >= 0);
  return fd;
}

static inline void make(const struct console_port *ports, uint32_t n) {
  int error = 1;
  core_begin();
  fake_chardev_begin();
  console = console_new(&fake_api, NULL, "console0", ports, n, 0, &error);
  CHECK(console && !error);
}

/* New queues; `anew`: of a driver that begins, else as after a restore. */
static inline void begin_as(unsigned n, uint64_t features, int anew) {
  void *queues[FAKE_QUEUES];
  uint8_t fresh[FAKE_QUEUES];
  memset(fresh, anew, sizeof fresh);
  n_queues = n;
  for (unsigned i = 0; i < n; i++) queues[i] = queue[i] = queue_begin(i);
  CHECK(!console_start(console, queues, fresh, n, features));
}

static inline void begin(unsigned n, uint64_t features) {
  begin_as(n, features, 1);
}

/* As the core does it: handlers end, then the device stops, then the queues are gone. */
static inline void end(void) {
  for (unsigned i = 0; i < n_queues; i++) queue_unhandle(queue[i]);
  console_stop(console);
  for (unsigned i = 0; i < n_queues; i++) queue_end(queue[i]);
}

static inline void unmake(void) {
  end();
  console_free(console);
  core_end();
}

/* The same queues again, as after a pause. */
static inline void resume(uint64_t features) {
  static const uint8_t fresh[FAKE_QUEUES];
  void *queues[FAKE_QUEUES];
  for (unsigned i = 0; i < n_queues; i++) {
    queues[i] = queue[i];
    queue[i]->live = queue[i]->notify = true;
  }
  CHECK(!console_start(console, queues, fresh, n_queues, features));
}

static inline void say(uint32_t id, uint16_t event, uint16_t value) {
  static uint8_t m[FAKE_REQUESTS][8];
  static unsigned n;
  uint8_t *p = m[n++ % FAKE_REQUESTS];
  vmm_store(p, 4, id), vmm_store(p + 4, 2, event), vmm_store(p + 6, 2, value);
  unsigned before = seen(queue[CONTROL_TX]);
  CHECK(submit_out(queue[CONTROL_TX], p, 8));
  UNTIL(seen(queue[CONTROL_TX]) == before + 1);
}

/* The next control message is this one. */
static inline void expect(uint32_t id, uint16_t event, uint16_t value, const void *more, uint32_t len) {
  uint8_t m[512];
  unsigned before = seen(queue[CONTROL_RX]);
  struct fake_request *r = submit_in(queue[CONTROL_RX], m, sizeof m);
  UNTIL(seen(queue[CONTROL_RX]) == before + 1);
  CHECK(r->written == 8 + len && vmm_load(m, 4) == id && vmm_load(m + 4, 2) == event && vmm_load(m + 6, 2) == value);
  CHECK(!len || !memcmp(m + 8, more, len));
}

/* No control message is waiting. Leaves a buffer in the queue. */
static inline void expect_silence(void) {
  static uint8_t m[512];
  unsigned before = seen(queue[CONTROL_RX]);
  submit_in(queue[CONTROL_RX], m, sizeof m);
  turn(10);
  CHECK(seen(queue[CONTROL_RX]) == before);
}

static inline void send_out(unsigned q, const char *text) {
  unsigned before = seen(queue[q]);
  CHECK(submit_out(queue[q], text, strlen(text)));
  UNTIL(seen(queue[q]) == before + 1);
}

static inline void receive(unsigned q, const char *text) {
  char buffer[256];
  unsigned before = seen(queue[q]);
  struct fake_request *r = submit_in(queue[q], buffer, sizeof buffer);
  UNTIL(seen(queue[q]) == before + 1);
  CHECK(r->written == strlen(text) && !memcmp(buffer, text, r->written));
}

#endif
