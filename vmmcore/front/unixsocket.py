# SPDX-License-Identifier: Apache-2.0
"""Listening Unix sockets in the file system: made so that nothing is left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from contextlib import contextmanager, nullcontext

from .. import plan as planfile
from .. import sockets
from ..errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: sizeof(sun_path), less the NUL (unix(7))
MAX_PATH = 107


def listen(path: str, option: str, *, private: bool = False, backlog: int = 4) -> tuple[int, list[Any]]:
    """A socket that listens at `path` (close-on-exec), and [path, st_dev, st_ino] for :func:`remove`.

    A socket there that nobody listens at any more is replaced. `private`: its mode is 0600 from the beginning, and
    one that belongs to another user is not replaced. Raises UserError naming `option`.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise UserError(option, f"{path}: longer than {MAX_PATH} bytes", "choose a shorter path")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if private:
            os.fchmod(server.fileno(), 0o600)  # what bind() makes has the socket's own mode, less the umask
        with _only_one(path) if private else nullcontext():
            try:
                server.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _is_stale(path, option, private):
                    raise
                os.unlink(path)
                server.bind(path)
            found = os.lstat(path)
            server.listen(backlog)
        server.setblocking(False)
        return planfile.above_stdio(server.detach()), [path, found.st_dev, found.st_ino]
    except OSError as error:
        mend = "create the folder first" if error.errno == errno.ENOENT else "name a path that can be created"
        raise UserError(option, f"{path}: {error.strerror}", mend) from None
    finally:
        server.close()


@contextmanager
def _only_one(path: str) -> Iterator[None]:
    """Of several that find one stale socket, one replaces it: a lock of its folder, while looking."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _is_stale(path: str, option: str, private: bool) -> bool:
    """Whether the socket at `path` has lost its program. Raises UserError for all else."""
    found = os.lstat(path)
    if not stat.S_ISSOCK(found.st_mode):
        raise UserError(option, f"{path}: exists, and is no socket", "choose another path")
    if private and found.st_uid != os.geteuid():
        raise UserError(option, f"{path}: belongs to another user", "choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
    raise UserError(option, f"{path}: another program listens there", "choose another path")


def remove(node: list[Any], pid: int) -> None:
    """Unlink what :func:`listen` made, unless it is another's by now, or this is a child of process `pid`."""
    if os.getpid() == pid:
        sockets.remove([node])
