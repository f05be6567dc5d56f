# SPDX-License-Identifier: Apache-2.0
"""Listening sockets of devices leave the file system with the process. `nodes` are [path, st_dev, st_ino] each."""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any


def remove_at_end(nodes: Iterable[Sequence[Any]]) -> None:
    """Unlink them when the process ends: a reboot of the guest still needs them."""
    for node in nodes:
        import atexit

        atexit.register(remove, [node])


def remove(nodes: Iterable[Sequence[Any]]) -> None:
    """Unlink them now, but not what somebody else has put there meanwhile."""
    for path, device, inode in nodes:
        try:
            found = posix.lstat(path)
            if (found.st_dev, found.st_ino) == (device, inode):
                posix.unlink(path)
        except OSError:
            pass
