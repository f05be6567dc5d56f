# SPDX-License-Identifier: Apache-2.0
"""The vmlinux inside a bzImage, decompressed once per host and user.

``$XDG_CACHE_HOME/vmm/boot`` (default ``~/.cache``), mode 0700, holds

``SHA256.vmlinux``  the decompressed file; the name is the hash of the compressed payload
``SHA256.stamp``    that file's identity (device, inode, size, mtime, ctime) when it was finished
``IDENTITY.key``    a bzImage's identity -> SHA256, so that a warm start hashes nothing
``lock``            held (flock) while something is written

Every file is written under a name of its own and renamed; a file that is not ours alone, or
does not match its stamp (altered, cut short), is ignored and made again.
"""

from __future__ import annotations

import fcntl
import os
import time

from .files import Identity, PrivateDir, identity, pread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .image import Image

#: Kernels that are kept; the oldest go.
KEEP = 8
#: A file's ctime is as coarse as a timer tick: content read this soon (ns) after the last change may
#: change again without its identity showing it, so its key is not remembered.
RACY = 100_000_000


class Entry:
    """An open, verified vmlinux: `fd` (the caller closes it), its `path` and `status`."""

    __slots__ = ("fd", "path", "status")

    def __init__(self, fd: int, path: str, status: os.stat_result) -> None:
        self.fd, self.path, self.status = fd, path, status


def directory() -> str:
    """Path of the cache. Raises OSError when there is no home directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):  # a relative one is to be ignored (XDG base directory specification)
        home = os.environ.get("HOME", "")
        if not home.startswith("/"):
            raise FileNotFoundError("no cache directory: neither XDG_CACHE_HOME nor HOME is set")
        base = home + "/.cache"
    return base + "/vmm/boot"


def _text(numbers: Identity) -> str:
    return "-".join(f"{number:x}" for number in numbers)


def _is_hash(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


def find(kernel: os.stat_result) -> Entry | None:
    """The vmlinux of the bzImage with this status, if it is at hand. Never raises OSError."""
    try:
        with PrivateDir(directory()) as cache:
            key = cache.read(_text(identity(kernel)) + ".key")
            return _lookup(cache, key) if _is_hash(key) else None
    except OSError:
        return None


def _lookup(cache: PrivateDir, key: str) -> Entry | None:
    try:
        stamp = cache.read(key + ".stamp")
        fd, status = cache.open(key + ".vmlinux")
    except OSError:
        return None
    if _text(identity(status)) != stamp:
        os.close(fd)
        return None
    return Entry(fd, f"{cache.path}/{key}.vmlinux", status)


def store(kernel_fd: int, image: Image) -> Entry:
    """Decompress the payload of the bzImage `kernel_fd` into the cache, unless its content is there already.

    Raises decompress.Unsupported, decompress.Damaged, image.ImageError (it decompresses to something that
    is not a kernel) and OSError (no cache: read-only, full, not ours alone).
    """
    import hashlib

    before = os.fstat(kernel_fd)
    started = time.time_ns()
    payload = pread(kernel_fd, image.payload_offset, image.payload_size)
    key = hashlib.sha256(payload).hexdigest()
    steady = (identity(os.fstat(kernel_fd)) == identity(before)
              and started - max(before.st_ctime_ns, before.st_mtime_ns) > RACY)

    with PrivateDir(directory(), create=True) as cache:
        lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=cache.fd)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entry = _lookup(cache, key) or _extract(cache, key, payload, image)
            try:
                if steady:
                    _write(cache, _text(identity(before)) + ".key", key)
                _tidy(cache, key)
            except OSError:  # no room for the key: the next start hashes again
                pass
        finally:
            os.close(lock)
    return entry


def _extract(cache: PrivateDir, key: str, payload: bytes, image: Image) -> Entry:
    from . import decompress
    from .image import HEAD, ImageError, parse

    pieces = decompress.decompress(payload, image.init_size)
    name = key + ".new"
    cache.remove(name)  # of a run that was killed: the lock is ours, so nobody writes it now
    fd = cache.create(name)
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        size = os.fstat(fd).st_size
        inner = parse(pread(fd, 0, HEAD), size, lambda offset, count: pread(fd, offset, count))
        if inner is None or inner.kind != "ELF":
            raise ImageError("does not decompress to an ELF file")
        os.fsync(fd)
        cache.rename(name, key + ".vmlinux")
        status = os.fstat(fd)  # renaming may touch ctime
        _write(cache, key + ".stamp", _text(identity(status)))
    except BaseException:
        os.close(fd)
        cache.remove(name)
        raise
    return Entry(fd, f"{cache.path}/{key}.vmlinux", status)


def _write(cache: PrivateDir, name: str, text: str) -> None:
    temporary = name + ".new"
    cache.remove(temporary)
    fd = cache.create(temporary)
    try:
        data = text.encode()
        if os.write(fd, data) != len(data):
            raise OSError(f"{name}: written only in part")
        os.fsync(fd)
        cache.rename(temporary, name)
    except OSError:
        cache.remove(temporary)
        raise
    finally:
        os.close(fd)


def _tidy(cache: PrivateDir, key: str) -> None:
    """Drop all but the newest `KEEP` kernels, what belongs to none, and leftovers of killed runs."""
    names = os.listdir(cache.fd)
    kernels = [name[:-8] for name in names if name.endswith(".vmlinux")]
    ages = {kernel: os.stat(kernel + ".vmlinux", dir_fd=cache.fd, follow_symlinks=False).st_mtime_ns
            for kernel in kernels}
    kept = {key, *sorted(kernels, key=lambda kernel: ages[kernel])[-KEEP:]}
    for name in names:
        stem, _, kind = name.rpartition(".")
        if kind == "new" or (kind in ("vmlinux", "stamp") and stem not in kept):
            cache.remove(name)
        elif kind == "key":
            try:
                if cache.read(name) not in kept:
                    cache.remove(name)
            except OSError:
                cache.remove(name)
