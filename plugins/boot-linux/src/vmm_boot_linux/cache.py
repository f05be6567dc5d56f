# SPDX-License-Identifier: Apache-2.0
"""The kernel inside a bzImage (an ELF vmlinux), a zboot image or a gzip file (an arm64 Image), decompressed once
per host and user.

``$XDG_CACHE_HOME/vmm/boot`` (default ``~/.cache``), mode 0700, holds

``SHA256.vmlinux``  the decompressed file; the name is the hash of the compressed payload
``SHA256.stamp``    that file's identity (device, inode, size, mtime, ctime) when it was finished, and
                    where it is not zero: a third of Debian's vmlinux is .bss spelled out
``IDENTITY.key``    a compressed kernel's identity -> SHA256, so that a warm start hashes nothing
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
    from collections.abc import Iterable

    from .image import Image

#: Kernels that are kept; the oldest go.
KEEP = 8
#: A file's ctime is as coarse as a timer tick: content read this soon (ns) after the last change may
#: change again without its identity showing it, so its key is not remembered.
RACY = 100_000_000


#: Zeros are left out of the file, and need not be loaded, in blocks of this size (bytes).
BLOCK = 64 << 10
#: A stamp with more pieces than this is not worth its length.
MAX_EXTENTS = 256

#: (file offset, size) of the pieces that are not all zero, ascending
Extents = list[tuple[int, int]]


class Entry:
    """An open, verified vmlinux: `fd` (the caller closes it), its `path`, `status` and `extents`."""

    __slots__ = ("extents", "fd", "path", "status")

    def __init__(self, fd: int, path: str, status: os.stat_result, extents: Extents) -> None:
        self.fd, self.path, self.status, self.extents = fd, path, status, extents


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
    """The decompressed kernel of the file with this status, if it is at hand. Never raises OSError."""
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
    head, _, tail = stamp.partition("\n")
    extents = _read_extents(tail, status.st_size)
    if head != _text(identity(status)) or extents is None:
        os.close(fd)
        return None
    return Entry(fd, f"{cache.path}/{key}.vmlinux", status, extents)


def _read_extents(text: str, size: int) -> Extents | None:
    """The extents in a stamp; None when they cannot be right (a stamp that was cut short)."""
    extents: Extents = []
    if not text.endswith("\n"):
        return None
    end = 0
    for word in text.split():
        first, _, second = word.partition("+")
        try:
            offset, length = int(first, 16), int(second, 16)
        except ValueError:
            return None
        if offset < end or length <= 0 or offset + length > size:
            return None
        end = offset + length
        extents.append((offset, length))
    return extents


def store(kernel_fd: int, image: Image) -> Entry:
    """Decompress the payload of the kernel `kernel_fd` into the cache, unless its content is there already.

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


def inside(image: Image) -> str:
    """The kind of kernel that `image` should decompress to."""
    return "ELF" if image.kind == "bzImage" else "Image"


def limit(image: Image) -> int:
    """The most bytes that it may decompress to: a bzImage says so, others have decompress.MAX_OUTPUT only."""
    return image.init_size if image.kind == "bzImage" else 1 << 62


def into(fd: int, kernel_fd: int, image: Image) -> Extents:
    """Decompress the payload of the kernel `kernel_fd` into `fd`. Raises as :func:`store` does, but no ImageError."""
    from . import decompress

    payload = pread(kernel_fd, image.payload_offset, image.payload_size)
    return _write_sparse(fd, decompress.decompress(payload, limit(image)))


def _extract(cache: PrivateDir, key: str, payload: bytes, image: Image) -> Entry:
    from . import decompress
    from .image import HEAD, ImageError, parse

    pieces = decompress.decompress(payload, limit(image))
    name = key + ".new"
    cache.remove(name)  # of a run that was killed: the lock is ours, so nobody writes it now
    fd = cache.create(name)
    try:
        extents = _write_sparse(fd, pieces)
        size = os.fstat(fd).st_size
        inner = parse(pread(fd, 0, HEAD), size, lambda offset, count: pread(fd, offset, count))
        if inner is None or inner.kind != inside(image):
            raise ImageError(f"does not decompress to an {inside(image)} file")
        os.fsync(fd)
        cache.rename(name, key + ".vmlinux")
        status = os.fstat(fd)  # renaming may touch ctime
        words = " ".join(f"{offset:x}+{length:x}" for offset, length in extents)
        _write(cache, key + ".stamp", f"{_text(identity(status))}\n{words}\n")
    except BaseException:
        os.close(fd)
        cache.remove(name)
        raise
    return Entry(fd, f"{cache.path}/{key}.vmlinux", status, extents)


def _write_sparse(fd: int, pieces: Iterable[bytes]) -> Extents:
    """Write everything but the blocks of zeros, which become holes; returns what was written."""
    zeros = bytes(BLOCK)
    extents: Extents = []
    offset, rest = 0, b""

    def put(data: bytes) -> None:
        nonlocal offset
        view = memoryview(data)
        start: int | None = None  # of the blocks to write
        for position in range(0, len(data), BLOCK):
            block = view[position : position + BLOCK]
            if block != zeros[: len(block)]:
                start = position if start is None else start
            elif start is not None:
                extent(view[start:position], offset + start)
                start = None
        if start is not None:
            extent(view[start:], offset + start)
        offset += len(data)

    def extent(view: memoryview, at: int) -> None:
        if extents and sum(extents[-1]) == at:
            extents[-1] = (extents[-1][0], extents[-1][1] + len(view))
        else:
            extents.append((at, len(view)))
        while view:
            done = os.pwrite(fd, view, at)
            view, at = view[done:], at + done

    for piece in pieces:
        data = rest + piece
        whole = len(data) - len(data) % BLOCK
        put(data[:whole])
        rest = data[whole:]
    put(rest)
    os.ftruncate(fd, offset)
    return extents if len(extents) <= MAX_EXTENTS else [(0, offset)]


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
