/* SPDX-License-Identifier: Apache-2.0 */
/* Runs the one test named on the command line; fails too when it leaves file descriptors behind. */
#include "harness.h"

#include <dirent.h>
#include <sys/epoll.h>

static struct {
  const char *name;
  void (*fn)(void);
} tests[256];
static unsigned n_tests;

void test_register(const char *name, void (*fn)(void)) {
  if (n_tests == sizeof tests / sizeof *tests) abort();
  tests[n_tests].name = name;
  tests[n_tests++].fn = fn;
}

void test_fail(const char *file, int line, const char *what) {
  fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, what);
  _exit(1);
}

void test_fail_values(const char *file, int line, const char *what, long long a, long long b) {
  fprintf(stderr, "%s:%d: EQ failed: %s: %lld (0x%llx) and %lld (0x%llx)\n", file, line, what, a,
          (unsigned long long)a, b, (unsigned long long)b);
  _exit(1);
}

void wait_readable(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  while (poll(&p, 1, -1) != 1) CHECK(errno == EINTR);
}

static _Atomic unsigned waits;
int __real_epoll_wait(int fd, struct epoll_event *e, int n, int timeout);
int __wrap_epoll_wait(int fd, struct epoll_event *e, int n, int timeout);

int __wrap_epoll_wait(int fd, struct epoll_event *e, int n, int timeout) {
  waits++;
  return __real_epoll_wait(fd, e, n, timeout);
}

unsigned idle_waits(void) {
  unsigned before = waits;
  poll(NULL, 0, 60);
  return waits - before;
}

void set_nonblock(int fd) {
  CHECK(!fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
}

static int open_fds(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/fd");
  CHECK(d);
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

int main(int argc, char **argv) {
  signal(SIGPIPE, SIG_IGN); /* as the runner does */
  for (unsigned i = 0; argc == 2 && i < n_tests; i++)
    if (!strcmp(tests[i].name, argv[1])) {
      int before = open_fds();
      tests[i].fn();
      EQ(open_fds(), before);
      return 0;
    }
  fprintf(stderr, "usage: %s TEST\n", argv[0]);
  for (unsigned i = 0; i < n_tests; i++) fprintf(stderr, "  %s\n", tests[i].name);
  return 2;
}
