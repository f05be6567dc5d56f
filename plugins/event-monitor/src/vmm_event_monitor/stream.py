# SPDX-License-Identifier: Apache-2.0
"""A descriptor that is written without ever waiting for its reader."""

from __future__ import annotations

import os
import socket
import stat
import sys
import weakref

from vmmcore import plan as planfile
from vmmcore.errors import UserError

#: bytes that wait for a slow reader, at most; what comes then is lost, whole texts of it
BACKLOG = 1 << 20


class Stream:
    """Where `path` or the descriptor `fd` (which stays the caller's) leads. Raises UserError."""

    def __init__(self, path: str | None, fd: int | None) -> None:
        self._fd = _open_path(path) if path is not None else _open_fd(fd if fd is not None else -1)
        self._close = weakref.finalize(self, os.close, self._fd)
        self._socket = stat.S_ISSOCK(os.fstat(self._fd).st_mode)
        self._waiting = bytearray()
        self._lost = 0

    def write(self, text: str) -> None:
        """Append a text. If the reader is too slow for it, it is lost; if the reader is gone, all further ones are."""
        if not self._close.alive:
            return
        data = text.encode()
        if len(self._waiting) + len(data) > BACKLOG:
            self._flush()
        if len(self._waiting) + len(data) > BACKLOG:
            self._lost += 1
            return
        self._waiting += data
        self._flush()

    def _flush(self) -> None:
        while self._waiting:
            try:
                del self._waiting[: self._some()]
            except BlockingIOError:
                return
            except OSError as error:
                print(f"vmm: warning: --event-monitor: {error.strerror}; no more events are written", file=sys.stderr)
                self._close()
                return

    def _some(self) -> int:
        """Write what can be written now."""
        if not self._socket:
            return os.write(self._fd, self._waiting)
        with socket.socket(fileno=os.dup(self._fd)) as sock:
            return sock.send(self._waiting, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Write what can still be written, and let go of the descriptor."""
        if self._close.alive:
            self._flush()
        if self._lost:
            print(f"vmm: warning: --event-monitor: {self._lost} events lost, its reader was too slow", file=sys.stderr)
        self._close()


def _open_path(path: str) -> int:
    option = "--event-monitor path="
    try:
        fifo = stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        fifo = False
    if not fifo:
        return _nonblocking(planfile.open_path(path, "w", option))
    try:  # for reading, too: it opens before there is a reader, and keeps what comes before
        return planfile.above_stdio(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise UserError(option, f"{path}: {error.strerror}", "make it readable and writable") from None


def _open_fd(fd: int) -> int:
    import fcntl

    try:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError:
        raise UserError("--event-monitor fd=", f"{fd} is not open", "pass the number of an open descriptor") from None
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise UserError("--event-monitor fd=", f"{fd} is open for reading only", "open it for writing")
    return _nonblocking(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))


def _nonblocking(fd: int) -> int:
    """`fd`, or, where a write could wait, another of the same file: O_NONBLOCK must not become others' as well."""
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return fd  # a socket is told with each write
    try:
        again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:  # somebody else's terminal: better a wait than no events
        return fd
    os.close(fd)
    return planfile.above_stdio(again)
