/* SPDX-License-Identifier: Apache-2.0 */
/* Byte streams on a listening socket: clients come, wait and go. */
#include "stream.h"

#include <sys/un.h>

static struct sockaddr_un address;

static int listening(void) {
  static _Atomic unsigned number;
  address = (struct sockaddr_un){.sun_family = AF_UNIX};
  snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "vmm-test-%d-%u", (int)getpid(), number++);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0 && !bind(fd, (struct sockaddr *)&address, sizeof address) && !listen(fd, 4));
  return fd;
}

static int client(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof address));
  return fd;
}

/* Say it again until the client hears it: without a client it is dropped. */
static void hear(vmm_chardev *c, int fd, char letter) {
  char got = 0;
  struct timeval wait = {.tv_usec = 5000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  for (int i = 0; i < 2000 && got != letter; i++) {
    vmm_chardev_write(c, (const uint8_t[]){(uint8_t)letter, '\n'}, 2);
    while (read(fd, &got, 1) == 1 && got != letter) {}
  }
  EQ(got, letter);
}

TEST(chardev_socket_serves_one_client_after_the_other) {
  vmm_vm *vm = fake_vm();
  struct device dev = DEVICE(1000);
  int fd = listening();
  vmm_chardev *c = vmm_chardev_open(vm, fd, fd, 0, device_rx, &dev);
  CHECK(c);
  EQ(put_text(c, "nobody\n"), 7);
  vmm_chardev_kick(c);
  int first = client(), second = client();
  EQ(write(second, "two", 3), 3);
  EQ(write(first, "one", 3), 3);
  GOT(&dev, "one");
  hear(c, first, 'a');
  EQ(write(first, "bye", 3), 3);
  close(first);
  device_wait(&dev, 6, 0, 0); /* its last words, then the next one's first */
  EQ(memcmp(dev.got, "byetwo", 6), 0);
  hear(c, second, 'b');
  close(second);
  int third = client();
  hear(c, third, 'c');
  vmm_chardev_close(c);
  char end;
  while (read(third, &end, 1) > 0) {}
  close(third);
  fake_vm_end(vm);
}

TEST(chardev_socket_client_that_has_said_all_goes_on_listening) {
  vmm_vm *vm = fake_vm();
  struct device dev = DEVICE(1000);
  int fd = listening();
  vmm_chardev *c = vmm_chardev_open(vm, fd, fd, 0, device_rx, &dev);
  vmm_chardev_kick(c);
  int first = client();
  EQ(write(first, "ask", 3), 3);
  CHECK(!shutdown(first, SHUT_WR));
  GOT(&dev, "ask");
  hear(c, first, 'a');
  int second = client();
  hear(c, first, 'b');
  close(first);
  hear(c, second, 'c');
  close(second);
  vmm_chardev_close(c);
  fake_vm_end(vm);
}

TEST(chardev_socket_closes_while_clients_come_and_go) {
  for (int round = 0; round < 50; round++) {
    vmm_vm *vm = fake_vm();
    struct device dev = DEVICE(8000);
    int fd = listening();
    vmm_chardev *c = vmm_chardev_open(vm, fd, fd, 0, device_rx, &dev);
    vmm_chardev_kick(c);
    int a = client(), b = client();
    EQ(write(a, "x", 1), 1);
    put_text(c, "output\n");
    if (round & 1) close(a);
    vmm_chardev_close(c);
    if (!(round & 1)) close(a);
    close(b);
    fake_vm_end(vm);
  }
}
