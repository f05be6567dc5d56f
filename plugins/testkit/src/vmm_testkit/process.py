# SPDX-License-Identifier: Apache-2.0
"""Child processes that do not outlive us."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence

_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


def spawn(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
    fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, its output in pipes, to be killed by the kernel when we end.

    ("We" is the thread that calls this: see PR_SET_PDEATHSIG in prctl(2).)
    """
    return subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=None if env is None else dict(env),
        pass_fds=fds,
        start_new_session=True,
        # Safe enough with threads: it calls two system calls by way of ctypes and takes no lock of ours.
        preexec_fn=_die_with_parent(),  # noqa: PLW1509
    )


def _die_with_parent() -> Callable[[], None]:
    """A ``preexec_fn`` that has the kernel kill the child when the thread that started it ends."""
    parent = os.getpid()

    def set_it() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before prctl was called
            os._exit(127)

    return set_it


def kill_group(process: subprocess.Popen[bytes], grace: float = 0.0) -> int:
    """End the process and its process group (it must lead one), reap it, return its exit code.

    With ``grace`` seconds > 0 it gets SIGTERM and that much time first.
    """
    if process.poll() is None and grace > 0:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    # Even when the leader is gone others of its group may be alive.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
