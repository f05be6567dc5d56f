# SPDX-License-Identifier: Apache-2.0
"""Archives in the "newc" cpio format that the kernel unpacks as initramfs.

Written without root: owners and device numbers are only numbers in the archive.
Format: Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from typing import BinaryIO

_TRAILER = "TRAILER!!!"


class CpioWriter:
    """Write one archive to a binary file; parent directories are added as they are needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inode = 0
        self._directories: set[str] = set()
        self._size = 0

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory and its parents; one that is already there is left alone."""
        path = path.strip("/")
        if not path or path in self._directories:
            return
        self._parents(path)
        self._directories.add(path)
        self._member(path, stat.S_IFDIR | mode, b"", links=2)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        if len(data) > 0xFFFF_FFFF:
            raise ValueError(f"{path}: a cpio member holds less than 4 GiB")
        self._parents(path)
        self._member(path, stat.S_IFREG | mode, data)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link to ``target``."""
        self._parents(path)
        self._member(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, kind: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a device node; ``kind`` is "c" or "b"."""
        self._parents(path)
        fmt = {"c": stat.S_IFCHR, "b": stat.S_IFBLK}[kind]
        self._member(path, fmt | mode, b"", rdev=(major, minor))

    def close(self) -> None:
        """Write the trailer. The file stays open."""
        self._inode = 0
        self._member(_TRAILER, 0, b"")
        self._file.write(bytes(-self._size % 512))

    def _parents(self, path: str) -> None:
        parent = path.strip("/").rpartition("/")[0]
        if parent:
            self.directory(parent)

    def _member(
        self, path: str, mode: int, data: bytes, links: int = 1, rdev: tuple[int, int] = (0, 0)
    ) -> None:
        name = path.strip("/").encode() + b"\0"
        inode = self._inode
        self._inode += 1
        # Fields: ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check.
        # The time is 0 so that equal content makes an equal archive.
        fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *rdev, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._put(header + name)
        self._put(data)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._file.write(bytes(-len(data) % 4))
        self._size += len(data) + -len(data) % 4
