# SPDX-License-Identifier: Apache-2.0
"""A directory of files that nobody but us can have written."""

from __future__ import annotations

import os
import stat

#: (st_dev, st_ino, st_size, st_mtime_ns, st_ctime_ns): changes with every change of a file's bytes.
Identity = tuple[int, int, int, int, int]


def identity(status: os.stat_result) -> Identity:
    """What tells this content of this file from any other; ctime cannot be set by hand."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def pread(fd: int, offset: int, count: int) -> bytes:
    """`count` bytes of `fd` at `offset`; fewer only at the end of the file."""
    data = os.pread(fd, count, offset)
    if len(data) == count or not data:
        return data
    parts = [data]
    done = len(data)
    while done < count and (data := os.pread(fd, count - done, offset + done)):
        parts.append(data)
        done += len(data)
    return b"".join(parts)


class Untrusted(OSError):
    """A file or directory that somebody else owns or may write."""


class PrivateDir:
    """A directory of mode 0700 that we own, held open; every name is looked up in it without following links.

    Raises OSError (Untrusted for wrong owner or mode). `create`: make it, and its parents.
    """

    def __init__(self, path: str, create: bool = False) -> None:
        self.path = path
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.fd = os.open(path, flags)
        except FileNotFoundError:
            if not create:
                raise
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:  # another run was faster
                pass
            self.fd = os.open(path, flags)
        status = os.fstat(self.fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            self.close()
            raise Untrusted(f"{path}: not a directory of mode 0700 that you own")

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> PrivateDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, name: str) -> tuple[int, os.stat_result]:
        """Open the file `name` for reading. Raises OSError, Untrusted for what we did not write ourselves."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd)
        status = os.fstat(fd)
        if (not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o177
                or status.st_nlink != 1):
            os.close(fd)
            raise Untrusted(f"{self.path}/{name}: not a plain file of yours alone")
        return fd, status

    def read(self, name: str) -> str:
        """The text of a small file (16 KiB at most). Raises OSError."""
        fd, _ = self.open(name)
        try:
            return os.pread(fd, 16384, 0).decode("ascii", "replace")
        finally:
            os.close(fd)

    def create(self, name: str) -> int:
        """A new file of mode 0400, open for writing. Raises OSError."""
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400,
                       dir_fd=self.fd)

    def rename(self, old: str, new: str) -> None:
        """Put `old` in the place of `new`, atomically."""
        os.rename(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def remove(self, name: str) -> None:
        """Remove `name` if it is there and can be removed."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except OSError:
            pass
