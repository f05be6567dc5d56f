/* SPDX-License-Identifier: Apache-2.0 */
/* Output of byte streams: pipes, files, sockets, nobody. */
#include "stream.h"

enum { CAPACITY = 65536 };

static uint8_t pattern(size_t i) {
  return (uint8_t)(i * 7 + i / 256);
}

/* Writes until no more is taken; returns how much was. */
static size_t fill(vmm_chardev *c, size_t from, size_t most) {
  uint8_t chunk[1000];
  size_t at = from;
  while (at < from + most) {
    size_t want = sizeof chunk < from + most - at ? sizeof chunk : from + most - at;
    for (size_t i = 0; i < want; i++) chunk[i] = pattern(at + i);
    size_t n = vmm_chardev_write(c, chunk, want);
    CHECK(n <= want);
    at += n;
    if (n < want) break;
  }
  return at - from;
}

static void expect_pattern(int fd, size_t from, size_t len) {
  uint8_t *buf = malloc(len);
  read_all(fd, buf, len);
  for (size_t i = 0; i < len; i++) EQ(buf[i], pattern(from + i));
  free(buf);
}

static void full_and_drained(vmm_vm *vm, int out, int reader) {
  struct device dev = DEVICE(0);
  vmm_chardev *c = vmm_chardev_open(vm, -1, out, 0, device_rx, &dev);
  EQ(vmm_chardev_room(c), CAPACITY);
  size_t at = 0;
  for (unsigned round = 1; round <= 3; round++) {
    size_t n = fill(c, at, 16 << 20); /* nobody reads: it ends, and does not block */
    CHECK(n >= CAPACITY && n < 16 << 20);
    EQ(vmm_chardev_room(c), 0);
    EQ(put_text(c, "no room"), 0);
    EQ(dev.notes, round - 1);
    expect_pattern(reader, at, n); /* every byte that was taken, in order */
    at += n;
    device_wait(&dev, 0, 0, round); /* told that there is room */
    EQ(vmm_chardev_room(c), CAPACITY);
  }
  EQ(fill(c, at, 100), 100);
  expect_pattern(reader, at, 100);
  CHECK_SLEEPS();
  EQ(dev.notes, 3); /* only when it had been full */
  vmm_chardev_close(c);
}

TEST(chardev_full_pipe) {
  vmm_vm *vm = fake_vm();
  int p[2];
  CHECK(!pipe2(p, O_CLOEXEC));
  int shared = dup(p[1]);
  full_and_drained(vm, p[1], p[0]);
  EQ(fcntl(shared, F_GETFL) & O_NONBLOCK, 0); /* others write to that pipe too */
  close(shared);
  char c;
  EQ(read(p[0], &c, 1), 0); /* closed */
  close(p[0]);
  fake_vm_end(vm);
}

TEST(chardev_full_nonblocking_pipe) {
  vmm_vm *vm = fake_vm();
  int p[2];
  CHECK(!pipe2(p, O_CLOEXEC));
  set_nonblock(p[1]);
  full_and_drained(vm, p[1], p[0]);
  close(p[0]);
  fake_vm_end(vm);
}

TEST(chardev_full_socket) {
  vmm_vm *vm = fake_vm();
  int s[2];
  CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
  full_and_drained(vm, s[1], s[0]);
  close(s[0]);
  fake_vm_end(vm);
}

TEST(chardev_single_bytes_arrive) {
  vmm_vm *vm = fake_vm();
  int p[2];
  CHECK(!pipe2(p, O_CLOEXEC));
  vmm_chardev *c = vmm_chardev_open(vm, -1, p[1], 0, NULL, NULL);
  for (unsigned i = 0; i < 5; i++) { /* no end of line, no full buffer */
    EQ(put_text(c, "a"), 1);
    char got;
    EQ(read(p[0], &got, 1), 1);
    EQ(got, 'a');
  }
  EQ(put_text(c, "the last words"), 14);
  vmm_chardev_close(c);
  char got[32];
  EQ(read(p[0], got, sizeof got), 14);
  EQ(read(p[0], got, sizeof got), 0);
  close(p[0]);
  fake_vm_end(vm);
}

TEST(chardev_file) {
  vmm_vm *vm = fake_vm();
  int fd = open("out", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), own = dup(fd);
  vmm_chardev *c = vmm_chardev_open(vm, -1, fd, 0, NULL, NULL);
  EQ(fill(c, 0, 300000), 300000); /* never full */
  EQ(put_text(c, ""), 0);
  vmm_chardev_close(c);
  EQ(lseek(own, 0, SEEK_END), 300000);
  lseek(own, 0, SEEK_SET);
  expect_pattern(own, 0, 300000);
  close(own);
  fake_vm_end(vm);
}

TEST(chardev_full_disk_does_not_stop_the_guest) {
  vmm_vm *vm = fake_vm();
  int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  vmm_chardev *c = vmm_chardev_open(vm, -1, fd, 0, NULL, NULL);
  for (unsigned i = 0; i < 300; i++) EQ(fill(c, 0, 1000), 1000);
  vmm_chardev_close(c);
  fake_vm_end(vm);
}

TEST(chardev_without_output) {
  vmm_vm *vm = fake_vm();
  struct device dev = DEVICE(100);
  vmm_chardev *c = vmm_chardev_open(vm, -1, -1, 0, device_rx, &dev);
  EQ(put_text(c, "into the void"), 13);
  EQ(vmm_chardev_room(c), CAPACITY);
  vmm_chardev_kick(c);
  vmm_chardev_close(c);
  fake_vm_end(vm);
}

static void reader_gone(int out, int reader) {
  vmm_vm *vm = fake_vm();
  vmm_chardev *c = vmm_chardev_open(vm, -1, out, 0, NULL, NULL);
  CHECK(fill(c, 0, 16 << 20) < 16 << 20); /* full */
  close(reader);
  for (size_t n = 0; n < 1 << 20;) { /* its output goes nowhere, but it goes */
    size_t took = put_text(c, "hello\n");
    if (!took) sched_yield();
    n += took;
  }
  CHECK_SLEEPS();
  vmm_chardev_close(c);
  fake_vm_end(vm);
}

TEST(chardev_pipe_whose_reader_goes) {
  int p[2];
  CHECK(!pipe2(p, O_CLOEXEC));
  reader_gone(p[1], p[0]);
}

TEST(chardev_socket_whose_peer_goes) {
  int s[2];
  CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
  reader_gone(s[1], s[0]);
}

TEST(chardev_drop_never_fills) {
  vmm_vm *vm = fake_vm();
  int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  CHECK(master >= 0 && !grantpt(master) && !unlockpt(master));
  int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC); /* held open; nobody reads */
  struct device dev = DEVICE(0);
  vmm_chardev *c = vmm_chardev_open(vm, master, master, VMM_CHARDEV_DROP, device_rx, &dev);
  for (unsigned i = 0; i < 100000; i++) {
    CHECK(vmm_chardev_room(c) > 0);
    size_t n = put_text(c, "console output that nobody looks at\n");
    CHECK(n > 0);
  }
  vmm_chardev_close(c);
  close(slave);
  fake_vm_end(vm);
}

struct writer {
  vmm_chardev *c;
  size_t taken;
};

static void *write_lines(void *opaque) {
  struct writer *w = opaque;
  for (unsigned i = 0; i < 3000; i++) {
    w->taken += put_text(w->c, i % 3 ? "a line\n" : "part, ");
    if (i % 64 == 0) vmm_chardev_room(w->c), vmm_chardev_kick(w->c);
  }
  return NULL;
}

static void *count_bytes(void *opaque) {
  static size_t n;
  char buf[512];
  ssize_t r;
  while ((r = read(*(int *)opaque, buf, sizeof buf)) > 0) n += (size_t)r;
  return &n;
}

TEST(chardev_written_from_many_threads) {
  vmm_vm *vm = fake_vm();
  int p[2];
  CHECK(!pipe2(p, O_CLOEXEC));
  struct device dev = DEVICE(0);
  vmm_chardev *c = vmm_chardev_open(vm, -1, p[1], 0, device_rx, &dev);
  struct writer w[3] = {{c, 0}, {c, 0}, {c, 0}};
  pthread_t t[3], reader;
  pthread_create(&reader, NULL, count_bytes, &p[0]);
  for (unsigned i = 0; i < 3; i++) pthread_create(&t[i], NULL, write_lines, &w[i]);
  for (unsigned i = 0; i < 3; i++) pthread_join(t[i], NULL);
  vmm_chardev_close(c);
  void *n;
  pthread_join(reader, &n);
  EQ(*(size_t *)n, w[0].taken + w[1].taken + w[2].taken);
  close(p[0]);
  fake_vm_end(vm);
}
