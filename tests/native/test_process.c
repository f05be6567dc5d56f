/* SPDX-License-Identifier: Apache-2.0 */
/* The runner's control socket and signals. */
#include "harness.h"

#include <sys/wait.h>

static void pair(int s[2]) {
  CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s));
}

static int fds_open(void) {
  int n = 0;
  for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

TEST(ctl_datagrams_with_fds) {
  int s[2], p[2], got[4], n = -1;
  char buf[64];
  pair(s);
  CHECK(!pipe(p));
  EQ(vmm_ctl_recv(s[0], buf, sizeof buf, got, 4, &n), -EAGAIN);
  EQ(n, 0);
  EQ(vmm_ctl_send(s[1], "hello", 5, &p[1], 1, 0), 0);
  EQ(vmm_ctl_send(s[1], "two", 3, NULL, 0, 0), 0);
  EQ(vmm_ctl_recv(s[0], buf, sizeof buf, got, 4, &n), 5);
  CHECK(!memcmp(buf, "hello", 5));
  EQ(n, 1);
  CHECK(fcntl(got[0], F_GETFD) & FD_CLOEXEC);
  EQ(write(got[0], "x", 1), 1);
  EQ(read(p[0], buf, 2), 1); /* it is that pipe */
  close(got[0]);
  EQ(vmm_ctl_recv(s[0], buf, sizeof buf, got, 4, &n), 3);
  EQ(n, 0);
  close(s[1]);
  EQ(vmm_ctl_recv(s[0], buf, sizeof buf, got, 4, &n), 0);
  close(s[0]), close(p[0]), close(p[1]);
}

TEST(ctl_closes_the_fds_of_what_it_refuses) {
  int s[2], fds[16], got[16], n;
  char buf[8];
  pair(s);
  for (int i = 0; i < 16; i++) fds[i] = s[0];
  int before = fds_open();
  EQ(vmm_ctl_send(s[1], "longer than the buffer", 22, fds, 3, 0), 0);
  EQ(vmm_ctl_recv(s[0], buf, sizeof buf, got, 16, &n), -EMSGSIZE);
  EQ(n, 0);
  EQ(fds_open(), before);
  EQ(vmm_ctl_send(s[1], "many", 4, fds, 16, 0), 0);
  EQ(vmm_ctl_recv(s[0], buf, sizeof buf, got, 2, &n), 4); /* more than asked for */
  EQ(n, 2);
  EQ(fds_open(), before + 2);
  close(got[0]), close(got[1]);
  EQ(vmm_ctl_send(s[1], "too many", 8, fds, 17, 0), -EINVAL);
  /* More than the receiver's control buffer holds: refused whole. */
  union {
    char space[CMSG_SPACE(40 * sizeof(int))];
    struct cmsghdr align;
  } control = {.space = {0}};
  struct iovec iov = {"x", 1};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
  c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(40 * sizeof(int));
  for (size_t i = 0; i < 40; i++) memcpy(CMSG_DATA(c) + i * sizeof(int), &s[0], sizeof(int));
  EQ(sendmsg(s[1], &msg, 0), 1);
  EQ(vmm_ctl_recv(s[0], buf, sizeof buf, got, 16, &n), -EMSGSIZE);
  EQ(n, 0);
  EQ(fds_open(), before);
  close(s[0]), close(s[1]);
}

static void *drain_one(void *opaque) {
  char buf[4096];
  CHECK(read(*(int *)opaque, buf, sizeof buf) > 0);
  return NULL;
}

TEST(ctl_send_does_not_wait_for_ever) {
  int s[2];
  static char big[4096];
  pair(s);
  unsigned sent = 0;
  while (!vmm_ctl_send(s[1], big, sizeof big, NULL, 0, 0)) sent++;
  CHECK(sent > 0);
  EQ(vmm_ctl_send(s[1], big, sizeof big, NULL, 0, 0), -EAGAIN);
  EQ(vmm_ctl_send(s[1], big, sizeof big, NULL, 0, 5), -EAGAIN);
  pthread_t t;
  pthread_create(&t, NULL, drain_one, &s[0]);
  pthread_join(t, NULL);
  for (unsigned i = 0; i < 300 && vmm_ctl_send(s[1], big, sizeof big, NULL, 0, 10); i++) drain_one(&s[0]);
  close(s[0]);
  int r = vmm_ctl_send(s[1], big, sizeof big, NULL, 0, 1000);
  CHECK(r == -EPIPE || r == -ECONNRESET); /* and no signal */
  close(s[1]);
}

static int s_intr[2];
static pthread_t sender;

static void on_signal(int signo) {
  (void)signo;
}

static void *interrupt_then_drain(void *opaque) {
  (void)opaque;
  for (int i = 0; i < 20; i++) {
    pthread_kill(sender, SIGUSR1);
    sched_yield();
  }
  for (int i = 0; i < 400; i++) {
    char buf[4096];
    if (recv(s_intr[0], buf, sizeof buf, MSG_DONTWAIT) < 0) break;
  }
  return NULL;
}

TEST(ctl_send_goes_on_after_a_signal) {
  static char big[4096];
  struct sigaction sa = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &sa, NULL);
  sender = pthread_self();
  for (unsigned round = 0; round < 30; round++) {
    pair(s_intr);
    while (!vmm_ctl_send(s_intr[1], big, sizeof big, NULL, 0, 0)) {
    }
    pthread_t t;
    pthread_create(&t, NULL, interrupt_then_drain, NULL);
    EQ(vmm_ctl_send(s_intr[1], big, sizeof big, NULL, 0, 60000), 0);
    pthread_join(t, NULL);
    close(s_intr[0]), close(s_intr[1]);
  }
}

TEST(signals_come_as_an_fd) {
  int fd = vmm_signals();
  CHECK(fd >= 0);
  EQ(vmm_signal_next(fd), -EAGAIN);
  int all[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
  for (unsigned i = 0; i < 4; i++) {
    CHECK(!kill(getpid(), all[i]));
    wait_readable(fd);
    EQ(vmm_signal_next(fd), all[i]);
  }
  EQ(vmm_signal_next(fd), -EAGAIN);
  close(fd);
}

TEST(parent_death_ends_the_child) {
  int ready[2], end[2];
  CHECK(!pipe(ready) && !pipe(end));
  pid_t parent = fork();
  if (!parent) {
    if (!fork()) {
      if (vmm_parent_death(SIGKILL)) _exit(1);
      (void)!write(ready[1], "x", 1);
      for (;;) pause(); /* holds end[1] open */
    }
    char c;
    (void)!read(ready[0], &c, 1);
    _exit(0);
  }
  close(end[1]);
  close(ready[1]);
  int status;
  EQ(waitpid(parent, &status, 0), parent);
  char c;
  EQ(read(end[0], &c, 1), 0); /* end of file: the grandchild is gone */
  close(end[0]), close(ready[0]);
  EQ(vmm_parent_death(0), 0);
  EQ(vmm_parent_death(9999), -EINVAL);
}
