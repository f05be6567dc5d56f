# SPDX-License-Identifier: Apache-2.0
"""Starting the runner: in place of this process, or beside it.

The runner is ``PYTHON -I -S vmmcore/_boot.py FD``; FD is a memfd that holds the marshalled plan.
"""

from __future__ import annotations

import marshal
import os
import sys
import time

from .. import plan as planfile
from .. import wire
from ..errors import VmmError
from .check import require_kvm

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Any, NoReturn

    from .planning import PlannedVm


def runner_argv(plan_fd: int) -> list[str]:
    """The command line of a runner. Raises VmmError if this interpreter cannot be found."""
    python = getattr(sys, "_base_executable", None) or sys.executable
    if not python:
        raise VmmError("the Python interpreter does not know its own path (sys.executable is empty)")
    boot = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_boot.py")
    return [python, "-I", "-S", boot, str(plan_fd)]


def _write_plan(plan: dict[str, Any], fds: list[int]) -> int:
    """A memfd (close-on-exec, beyond stdio) with the marshalled plan."""
    memfd = planfile.above_stdio(os.memfd_create("vmm-plan", os.MFD_CLOEXEC))
    try:
        data = memoryview(marshal.dumps({**plan, "fds": list(fds), "t_exec": time.monotonic_ns()}))
    except ValueError as error:
        os.close(memfd)
        raise VmmError(f"the plan holds something that is no plain data: {error}") from None
    while data:
        data = data[os.write(memfd, data) :]
    os.lseek(memfd, 0, os.SEEK_SET)
    return memfd


def exec_runner(planned: PlannedVm) -> NoReturn:
    """Become the runner. Raises HostError (no usable KVM) or VmmError; else it does not return."""
    require_kvm()
    for number in (0, 1, 2):  # a closed stdio number must not become something else's
        try:
            os.fstat(number)
        except OSError:
            os.open("/dev/null", os.O_RDWR)
    memfd = _write_plan(planned.plan, planned.fds)
    argv = runner_argv(memfd)
    for fd in (memfd, *planned.fds):
        os.set_inheritable(fd, True)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(argv[0], argv)
    except OSError as error:
        os.close(memfd)
        raise VmmError(f"cannot start {argv[0]}: {error.strerror}") from None


class Runner:
    """A runner beside us: its pid, a pidfd that is readable once it ended, and the control socket."""

    def __init__(self, process: subprocess.Popen[bytes], control: Any) -> None:
        import threading

        self._process = process
        self._lock = threading.RLock()  # a signal handler may come while it is held
        self.pid = process.pid
        self.control = control
        try:
            self.pidfd = os.pidfd_open(process.pid)
        except BaseException:
            process.kill()
            process.wait()
            control.close()
            raise

    def poll(self) -> int | None:
        """Its exit status (128 + N: ended by signal N), or None while it runs."""
        status = self._process.poll()
        return status if status is None or status >= 0 else 128 - status

    def kill(self) -> None:
        """End it at once; it stays to be reaped by :meth:`close`."""
        self.signal(9)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there. By its pidfd: a pid may be another's when threads reap it."""
        import signal

        with self._lock:
            try:
                if self.pidfd >= 0:
                    signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def close(self) -> int:
        """Kill it if it still runs, reap it, close our ends. Its exit status."""
        if self._process.poll() is None:
            self._process.kill()
        status = self._process.wait()
        self.control.close()
        with self._lock:
            if self.pidfd >= 0:
                os.close(self.pidfd)
                self.pidfd = -1
        return status if status >= 0 else 128 - status


def spawn_runner(planned: PlannedVm) -> Runner:
    """Start a runner that we talk to; takes over (and closes) the files of `planned`.

    The runner ends when our end of the control socket closes, so it never outlives us.
    Raises HostError (no usable KVM) or VmmError.
    """
    import subprocess
    import threading

    require_kvm()
    ours, theirs = wire.pair()
    memfd = -1
    try:
        theirs_fd = planfile.above_stdio(theirs.detach())
        planned.fds.append(theirs_fd)
        # PR_SET_PDEATHSIG follows the thread that starts the child, so only the main thread may ask for it
        plan = {
            **planned.plan,
            "control": theirs_fd,
            "parent_death": threading.current_thread() is threading.main_thread(),
        }
        memfd = _write_plan(plan, planned.fds[:-1])
        process = subprocess.Popen(runner_argv(memfd), pass_fds=(memfd, *planned.fds), close_fds=True)
        return Runner(process, ours)
    except OSError as error:
        ours.close()
        raise VmmError(f"cannot start the runner: {error.strerror}") from None
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        planned.close()
        if memfd >= 0:
            os.close(memfd)
