/* SPDX-License-Identifier: Apache-2.0 */
/* What the runner needs of its process: signals as an fd, datagrams with fds to and from the front. */
#include "native.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Block the signals that end a program and return an fd that reports them. */
int vmm_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  sigaddset(&set, SIGQUIT);
  sigprocmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGTTOU, SIG_IGN); /* setting the terminal from the background must not stop us */
  int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  return fd < 0 ? -errno : fd;
}

int vmm_signal_next(int fd) {
  struct signalfd_siginfo info;
  ssize_t n = read(fd, &info, sizeof info);
  return n == (ssize_t)sizeof info ? (int)info.ssi_signo : n < 0 ? -errno : -EIO;
}

/* Have the kernel send us `signo` when our parent ends. */
int vmm_parent_death(int signo) {
  return prctl(PR_SET_PDEATHSIG, signo) ? -errno : 0;
}

/* One datagram: its length, 0 at end of file, -EAGAIN when there is none. */
int vmm_ctl_recv(int fd, void *buf, size_t cap, int *fds, int max_fds, int *n_fds) {
  union {
    char space[CMSG_SPACE(16 * sizeof(int))];
    struct cmsghdr align;
  } control;
  struct iovec iov = {buf, cap};
  struct msghdr msg = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
  *n_fds = 0;
  ssize_t n;
  do
    n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0) return -errno;
  bool cut = (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    int count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (int i = 0; i < count; i++) {
      int got;
      memcpy(&got, CMSG_DATA(c) + (size_t)i * sizeof(int), sizeof got);
      if (!cut && *n_fds < max_fds)
        fds[(*n_fds)++] = got;
      else
        close(got);
    }
  }
  if (cut) {
    while (*n_fds) close(fds[--*n_fds]);
    return -EMSGSIZE;
  }
  return (int)n;
}

/* -EAGAIN when the peer has not made room within timeout_ms. */
int vmm_ctl_send(int fd, const void *buf, size_t len, const int *fds, int n_fds, int timeout_ms) {
  union {
    char space[CMSG_SPACE(16 * sizeof(int))];
    struct cmsghdr align;
  } control;
  struct iovec iov = {(void *)buf, len};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  if (n_fds > 16) return -EINVAL;
  if (n_fds > 0) {
    memset(&control, 0, sizeof control);
    msg.msg_control = control.space;
    msg.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
    memcpy(CMSG_DATA(c), fds, (size_t)n_fds * sizeof(int));
  }
  for (;;) {
    ssize_t n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) return 0;
    if (errno == EINTR) continue;
    if (errno != EAGAIN || !timeout_ms) return -errno;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int ready = poll(&p, 1, timeout_ms);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return -EAGAIN;
    timeout_ms = 0;
  }
}
