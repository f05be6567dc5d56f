/* SPDX-License-Identifier: Apache-2.0 */
/* The runner's signals and its parent. */
#include "harness.h"

#include <sys/wait.h>

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
