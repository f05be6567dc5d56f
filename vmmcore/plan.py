# SPDX-License-Identifier: Apache-2.0
"""The plan: plain data that describes one machine, the only thing that front and runner share.

A plan is a dict of str, int, float, bool, None, list, dict and bytes. ``docs/architecture.md``
lists its keys. Its files are opened by the front; ``plan["files"]`` says what they are, so
that a plan saved as JSON can be run later: :func:`reopen` opens them anew.
"""

from __future__ import annotations

import os
import stat

from . import wire
from .errors import UserError, VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

VERSION = 1

#: what `open_file` opens a mode with
MODES = {
    "r": os.O_RDONLY,
    "rw": os.O_RDWR,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
}

#: keys that every plan has, with their types
_KEYS: dict[str, type] = {
    "version": int,
    "id": str,
    "modules": dict,
    "arch": dict,
    "cpus": dict,
    "memory": dict,
    "load": list,
    "platform": dict,
    "pci": dict,
    "devices": list,
    "files": list,
}


def to_json(plan: dict[str, Any]) -> str:
    """The plan as JSON text, one line; bytes become ``{"$bytes": BASE64}``. File descriptors are left out."""
    return wire.encode({key: value for key, value in plan.items() if key not in ("fds", "control")}).decode()


def from_json(text: str | bytes) -> dict[str, Any]:
    """The plan in JSON text. Raises VmmError: not JSON, not a plan, or of another version."""
    try:
        plan = wire.decode_message(text.encode() if isinstance(text, str) else text)
    except ValueError as error:
        raise VmmError(f"not a plan: {error}") from None
    check(plan)
    affinity = plan["cpus"].get("affinity") or {}
    if not all(isinstance(vcpu, str) and vcpu.isdecimal() for vcpu in affinity):
        raise VmmError("not a plan: cpus.affinity is malformed")
    plan["cpus"]["affinity"] = {int(vcpu): hosts for vcpu, hosts in affinity.items()}  # JSON's keys are text
    return plan


def check(plan: dict[str, Any]) -> None:
    """Raise VmmError unless `plan` has the form of a plan of this version."""
    version = plan.get("version")
    if version != VERSION:
        raise VmmError(
            f"a plan of version {version!r}; this vmm runs version {VERSION}; make it again with `vmm plan`"
        )
    for key, kind in _KEYS.items():
        if type(plan.get(key)) is not kind:
            raise VmmError(f"not a plan: '{key}' is missing or of the wrong type")


def open_path(path: str, mode: str, option: str, *, direct: bool = False, lock: bool = False) -> int:
    """Open a file as `mode` (a key of :data:`MODES`) says; it is close-on-exec. Raises UserError.

    direct  past the page cache (O_DIRECT)
    lock    refuse a file that another VM writes, and have this one refused to others (:func:`lock_file`)
    """
    flags = MODES[mode] | (os.O_DIRECT if direct else 0)
    try:
        # O_NONBLOCK: a FIFO without a writer must not hold us up
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
    except OSError as error:
        mend = _mend(error.errno or 0, mode, direct)
        raise UserError(option, f"{path}: {error.strerror}", mend) from None
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISDIR(kind):
            raise UserError(option, f"{path}: is a directory", "name a file")
        os.set_blocking(fd, True)
        if lock:
            lock_file(fd, path, option, exclusive=mode != "r")
        return above_stdio(fd)
    except BaseException:
        os.close(fd)
        raise


def open_memory(folder: str, size: int, option: str) -> int:
    """A file of `size` bytes without a name, in a file system such as tmpfs or hugetlbfs. Raises UserError."""
    try:
        fd = above_stdio(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise UserError(option, f"{folder}: {error.strerror}", "name a folder of a tmpfs or hugetlbfs") from None
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        os.close(fd)
        raise UserError(option, f"{folder}: {error.strerror}", "make room in its file system") from None
    return fd


def lock_file(fd: int, path: str, option: str, *, exclusive: bool) -> None:
    """Take the file for this VM; several may have it if none is exclusive. Raises UserError.

    The lock is of the open file description (F_OFD_SETLK), over all bytes: it lives until the last duplicate of
    `fd`, in whatever process, is closed. QEMU and Cloud Hypervisor look at the same locks.
    """
    import errno as numbers
    import fcntl
    import struct
    import time

    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    request = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
    # The kernel may still be closing the files of a VM that was killed a moment ago.
    give_up = time.monotonic() + 0.5
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
            return
        except OSError as error:
            if error.errno not in (numbers.EAGAIN, numbers.EACCES):
                raise UserError(option, f"{path}: cannot be locked: {error.strerror}",
                                "keep it on a file system with locks") from None
            if time.monotonic() > give_up:
                mend = "stop that one" if exclusive else "stop that one, or give it readonly=on there as well"
                raise UserError(option, f"{path}: is in use by another virtual machine, or given twice",
                                mend) from None
            time.sleep(0.02)


def above_stdio(fd: int) -> int:
    """`fd`, or if it is 0, 1 or 2 a copy beyond them (and `fd` closed)."""
    if fd > 2:
        return fd
    import fcntl

    copy: int = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return copy


def dup_stdio(number: int) -> int:
    """A copy of our stdin, stdout or stderr (/dev/null when that is closed)."""
    import fcntl

    try:
        fd: int = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
        return fd
    except OSError:
        return above_stdio(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))


def open_pty(link: str | None, option: str, tell: Callable[[str], None]) -> tuple[int, int]:
    """A new pseudo terminal, raw: descriptors of its master and its slave, both close-on-exec.

    Keep the slave open: a master without any slave is hung up. `tell` gets the slave's path;
    `link` becomes a symbolic link to it.
    """
    import termios
    import tty

    try:
        master, slave = os.openpty()
    except OSError as error:
        raise UserError(option, f"no pseudo terminal: {error.strerror}") from None
    try:
        tty.setraw(slave, termios.TCSANOW)
        path = os.ttyname(slave)
        if link is not None:
            try:
                if os.path.islink(link):
                    os.unlink(link)
                os.symlink(path, link)
            except OSError as error:
                raise UserError(
                    option, f"{link}: {error.strerror}", "name a path that can be created"
                ) from None
        tell(path)
        return above_stdio(master), above_stdio(slave)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise


def reopen(plan: dict[str, Any], tell: Callable[[str], None]) -> list[int]:
    """Open all files of a plan that was read from JSON; descriptors parallel to ``plan["files"]``.

    Raises VmmError naming the file; nothing stays open then. `tell`: see :func:`open_pty`.
    """
    fds: list[int] = []
    try:
        slave = -1
        for entry in plan["files"]:
            match entry:
                case {"path": str(path), "mode": str(mode)} if mode in MODES:
                    direct, lock = bool(entry.get("direct")), bool(entry.get("lock"))
                    fds.append(open_path(path, mode, "--plan", direct=direct, lock=lock))
                case {"stdio": int(number)} if 0 <= number <= 2:
                    fds.append(dup_stdio(number))
                case {"memory": str(folder), "size": int(size)}:
                    fds.append(open_memory(folder, size, "--plan"))
                case {"pty": str() | None as link}:
                    master, slave = open_pty(link, "--plan", tell)
                    fds.append(master)
                case {"pty_slave": int()} if slave >= 0:
                    fds.append(slave)
                    slave = -1
                case _:
                    raise VmmError(f"--plan: file {len(fds)} of the plan cannot be opened again: {entry!r}")
    except BaseException:
        close_all([*fds, *([slave] if slave >= 0 else [])])
        raise
    return fds


def close_all(fds: list[int]) -> None:
    """Close descriptors, whatever happens, and empty the list."""
    while fds:
        try:
            os.close(fds.pop())
        except OSError:
            pass


def _mend(errno: int, mode: str, direct: bool = False) -> str:
    import errno as numbers

    if errno == numbers.EINVAL and direct:
        return "this file system has no direct I/O; leave direct out"
    if errno == numbers.ENOENT:
        return "create the folder first" if mode in "wa" else "check the path"
    if errno in (numbers.EACCES, numbers.EPERM, numbers.EROFS):
        return f"this user may not {'read' if mode == 'r' else 'write'} it"
    return ""
