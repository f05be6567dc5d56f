# SPDX-License-Identifier: Apache-2.0
"""Run a helper for as long as the other end of its socket is open: ``python guard.py FD PROGRAM ARGUMENT…``.

libslirp-helper does not look whether anybody is left at the other end, but it can end with its parent: us.
Says ``ok``, or what is wrong, on standard output and goes into the background.
"""

from __future__ import annotations

import os
import select
import sys


def main(fd: int, command: list[str]) -> int:
    if os.fork():  # the caller waits for this process only
        os._exit(0)
    os.setsid()
    poll = select.poll()
    poll.register(fd, 0)  # POLLHUP is reported unasked
    child = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    child_fd = os.pidfd_open(child)
    poll.register(child_fd, select.POLLIN)
    for number, _ in poll.poll(100):  # wrong arguments end it at once
        if number == child_fd:
            os.write(1, b"it ended at once\n")
            return 1
    os.write(1, b"ok\n")
    os.close(1)
    poll.poll()
    return 0  # and the child with us


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
