/* SPDX-License-Identifier: Apache-2.0 */
/* Input of byte streams: flow, ends, terminals and their escape key. */
#include "stream.h"

#include <sys/mman.h>
#include <termios.h>

static void send_text(int fd, const char *text, size_t len) {
  EQ(write(fd, text, len), len);
}
#define SEND(fd, text) send_text(fd, text, sizeof(text) - 1)

TEST(chardev_input_starts_with_the_first_kick) {
  vmm_vm *vm = fake_vm();
  int p[2];
  CHECK(!pipe2(p, O_CLOEXEC));
  struct device dev = DEVICE(100);
  vmm_chardev *c = vmm_chardev_open(vm, p[0], -1, 0, device_rx, &dev);
  SEND(p[1], "early");
  CHECK_SLEEPS();
  EQ(dev.calls, 0);
  vmm_chardev_kick(c);
  GOT(&dev, "early");
  SEND(p[1], "more"); /* no kick needed while there is room */
  GOT(&dev, "more");
  vmm_chardev_close(c);
  close(p[1]);
  fake_vm_end(vm);
}

TEST(chardev_full_device_gets_the_rest_later) {
  vmm_vm *vm = fake_vm();
  int p[2];
  CHECK(!pipe2(p, O_CLOEXEC));
  struct device dev = DEVICE(3);
  vmm_chardev *c = vmm_chardev_open(vm, p[0], -1, 0, device_rx, &dev);
  vmm_chardev_kick(c);
  SEND(p[1], "0123456789");
  GOT(&dev, "012");
  CHECK_SLEEPS();
  device_room(&dev, 5);
  vmm_chardev_kick(c);
  GOT(&dev, "34567");
  SEND(p[1], "abc");
  device_room(&dev, 100);
  vmm_chardev_kick(c);
  GOT(&dev, "89abc");
  vmm_chardev_close(c);
  close(p[1]);
  fake_vm_end(vm);
}

TEST(chardev_end_of_input_does_not_spin) {
  vmm_vm *vm = fake_vm();
  int p[2];
  CHECK(!pipe2(p, O_CLOEXEC));
  struct device dev = DEVICE(100);
  vmm_chardev *c = vmm_chardev_open(vm, p[0], -1, 0, device_rx, &dev);
  vmm_chardev_kick(c);
  SEND(p[1], "bye");
  close(p[1]);
  GOT(&dev, "bye");
  CHECK_SLEEPS();
  vmm_chardev_kick(c);
  vmm_chardev_close(c);
  fake_vm_end(vm);
}

static void hangup_while_full(int in, int other) {
  vmm_vm *vm = fake_vm();
  struct device dev = DEVICE(1);
  vmm_chardev *c = vmm_chardev_open(vm, in, -1, 0, device_rx, &dev);
  vmm_chardev_kick(c);
  SEND(other, "abc");
  GOT(&dev, "a");
  close(other);
  CHECK_SLEEPS();
  device_room(&dev, 100);
  vmm_chardev_kick(c);
  GOT(&dev, "bc");
  CHECK_SLEEPS();
  vmm_chardev_close(c);
  fake_vm_end(vm);
}

TEST(chardev_pipe_hangs_up_while_the_device_is_full) {
  int p[2];
  CHECK(!pipe2(p, O_CLOEXEC));
  hangup_while_full(p[0], p[1]);
}

TEST(chardev_socket_hangs_up_while_the_device_is_full) {
  int s[2];
  CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
  hangup_while_full(s[0], s[1]);
}

TEST(chardev_regular_file_as_input) {
  vmm_vm *vm = fake_vm();
  int fd = memfd_create("in", MFD_CLOEXEC);
  uint8_t text[5000];
  for (unsigned i = 0; i < sizeof text; i++) text[i] = (uint8_t)(i * 13 + i / 256);
  EQ(pwrite(fd, text, sizeof text, 0), sizeof text);
  struct device dev = DEVICE(16);
  vmm_chardev *c = vmm_chardev_open(vm, fd, -1, 0, device_rx, &dev);
  for (size_t n = 16; n < sizeof text; n += 16) {
    vmm_chardev_kick(c);
    device_wait(&dev, n, 0, 0);
    device_room(&dev, 16);
  }
  vmm_chardev_kick(c);
  device_wait(&dev, sizeof text, 0, 0);
  CHECK(!memcmp(dev.got, text, sizeof text));
  device_room(&dev, 100);
  vmm_chardev_kick(c);
  CHECK_SLEEPS(); /* at its end */
  EQ(dev.n, sizeof text);
  vmm_chardev_close(c);
  fake_vm_end(vm);
}

TEST(chardev_socket_for_both_directions) {
  vmm_vm *vm = fake_vm();
  int s[2];
  CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
  struct device dev = DEVICE(1000);
  vmm_chardev *c = vmm_chardev_open(vm, s[0], s[0], 0, device_rx, &dev);
  vmm_chardev_kick(c);
  for (unsigned i = 0; i < 20; i++) {
    char got[8];
    SEND(s[1], "ping");
    GOT(&dev, "ping");
    EQ(put_text(c, "pong\n"), 5);
    read_all(s[1], got, 5);
    CHECK(!memcmp(got, "pong\n", 5));
  }
  vmm_chardev_close(c);
  char x;
  EQ(read(s[1], &x, 1), 0);
  close(s[1]);
  fake_vm_end(vm);
}

TEST(chardev_closes_the_input_it_does_not_use) {
  vmm_vm *vm = fake_vm();
  int p[2], s[2];
  CHECK(!pipe2(p, O_CLOEXEC));
  vmm_chardev *c = vmm_chardev_open(vm, p[0], -1, 0, NULL, NULL); /* nobody wants the input */
  vmm_chardev_kick(c);
  vmm_chardev_close(c);
  EQ(write(p[1], "x", 1), -1);
  EQ(errno, EPIPE);
  close(p[1]);
  CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
  c = vmm_chardev_open(vm, s[0], s[0], 0, NULL, NULL);
  vmm_chardev_close(c);
  close(s[1]);
  fake_vm_end(vm); /* the test's end checks that no fd is left */
}

/* --- terminals --- */

struct terminal {
  int master, slave;
  struct termios before;
};

static vmm_chardev *terminal_open(struct terminal *t, vmm_vm *vm, struct device *dev) {
  t->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  CHECK(t->master >= 0 && !grantpt(t->master) && !unlockpt(t->master));
  t->slave = open(ptsname(t->master), O_RDWR | O_NOCTTY | O_CLOEXEC);
  CHECK(t->slave >= 0 && !tcgetattr(t->slave, &t->before));
  vmm_chardev *c = vmm_chardev_open(vm, fcntl(t->slave, F_DUPFD_CLOEXEC, 3), fcntl(t->slave, F_DUPFD_CLOEXEC, 3),
                                    VMM_CHARDEV_RAW | VMM_CHARDEV_ESCAPE, device_rx, dev);
  vmm_chardev_kick(c);
  return c;
}

static void terminal_close(struct terminal *t) {
  close(t->slave);
  close(t->master);
}

static void expect_quit(vmm_vm *vm) {
  uint32_t events;
  struct vmm_event e;
  EQ(vmm_poll_wait(vm, -1, &events), 0);
  EQ(vmm_event_next(vm, &e), 1);
  EQ(e.kind, VMM_EVENT_QUIT);
}

TEST(chardev_terminal_is_raw_until_close) {
  vmm_vm *vm = fake_vm();
  struct device dev = DEVICE(100);
  struct terminal t;
  struct termios now;
  vmm_chardev *c = terminal_open(&t, vm, &dev);
  CHECK(!tcgetattr(t.slave, &now));
  EQ(now.c_lflag & (tcflag_t)(ICANON | ECHO | ISIG), 0);
  SEND(t.master, "\x03"); /* Ctrl-C is the guest's */
  GOT(&dev, "\x03");
  EQ(put_text(c, "prompt$ "), 8);
  char got[8];
  read_all(t.master, got, 8);
  CHECK(!memcmp(got, "prompt$ ", 8));
  EQ(fcntl(t.slave, F_GETFL) & O_NONBLOCK, 0); /* the shell's own description stays as it was */
  vmm_chardev_close(c);
  CHECK(!tcgetattr(t.slave, &now));
  EQ(now.c_lflag, t.before.c_lflag);
  EQ(now.c_iflag, t.before.c_iflag);
  EQ(now.c_oflag, t.before.c_oflag);
  EQ(now.c_cflag, t.before.c_cflag);
  terminal_close(&t);
  fake_vm_end(vm);
}

TEST(chardev_escape_key) {
  vmm_vm *vm = fake_vm();
  struct device dev = DEVICE(1000);
  struct vmm_event e;
  struct terminal t;
  vmm_chardev *c = terminal_open(&t, vm, &dev);
  SEND(t.master, "a\x01\x01z");
  GOT(&dev, "a\x01z"); /* twice sends one */
  SEND(t.master, "\x01q");
  GOT(&dev, "\x01q"); /* before another key it is just that */
  SEND(t.master, "b\x01"); /* across two reads */
  GOT(&dev, "b");
  SEND(t.master, "\x01");
  GOT(&dev, "\x01");
  SEND(t.master, "x"); /* of which the pair above is no part */
  GOT(&dev, "x");
  EQ(vmm_event_next(vm, &e), 0);
  SEND(t.master, "c\x01");
  GOT(&dev, "c");
  SEND(t.master, "xd");
  expect_quit(vm);
  GOT(&dev, "d");
  vmm_chardev_close(c);
  terminal_close(&t);
  fake_vm_end(vm);
}

TEST(chardev_escape_key_works_when_the_guest_does_not_read) {
  vmm_vm *vm = fake_vm();
  struct device dev = DEVICE(2);
  struct terminal t;
  vmm_chardev *c = terminal_open(&t, vm, &dev);
  SEND(t.master, "are you there?"); /* 12 more than it takes */
  GOT(&dev, "ar");
  (void)idle_waits(); /* the loop has put the rest aside */
  SEND(t.master, "\x01x");
  struct pollfd p = {.fd = vm->event_fd, .events = POLLIN};
  EQ(poll(&p, 1, 20000), 1);
  expect_quit(vm);
  vmm_chardev_close(c);
  terminal_close(&t);
  fake_vm_end(vm);
}

TEST(chardev_escape_is_for_terminals_only) {
  vmm_vm *vm = fake_vm();
  int p[2];
  struct vmm_event e;
  CHECK(!pipe2(p, O_CLOEXEC));
  struct device dev = DEVICE(100);
  vmm_chardev *c = vmm_chardev_open(vm, p[0], -1, VMM_CHARDEV_RAW | VMM_CHARDEV_ESCAPE, device_rx, &dev);
  vmm_chardev_kick(c);
  SEND(p[1], "\x01x\x01\x01");
  GOT(&dev, "\x01x\x01\x01");
  EQ(vmm_event_next(vm, &e), 0);
  vmm_chardev_close(c);
  close(p[1]);
  fake_vm_end(vm);
}
