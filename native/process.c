/* SPDX-License-Identifier: Apache-2.0 */
/* What the runner needs of its process: signals as an fd, and to end with its parent. */
#include "native.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* Block the signals that end a program, and SIGUSR1, and return an fd that reports them. */
int vmm_signals(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  sigaddset(&set, SIGQUIT);
  sigaddset(&set, SIGUSR1); /* does not end it: new code for devices */
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
