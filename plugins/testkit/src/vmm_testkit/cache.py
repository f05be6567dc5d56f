# SPDX-License-Identifier: Apache-2.0
"""The cache directory, and making things in it once although several processes ask at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def cache_dir(name: str) -> Path:
    """``${XDG_CACHE_HOME:-~/.cache}/vmm/<name>``, created if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "vmm" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive flock on the file ``path`` (created; never removed, so that the lock stays one)."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def make_file(path: Path, write: Callable[[Path], None]) -> Path:
    """Return ``path``, letting ``write`` fill a temporary neighbour first if it does not exist.

    The rename makes the result appear whole or not at all; two makers at once both succeed.
    """
    if path.exists():
        return path
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def make_dir(path: Path, fill: Callable[[Path], None]) -> Path:
    """Return the directory ``path``, letting ``fill`` make its content in a temporary neighbour first."""
    if path.is_dir():
        return path
    with locked(path.parent / f".{path.name}.lock"):
        if path.is_dir():
            return path
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            temporary.chmod(0o755)
            fill(temporary)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def keep_newest(path: Path, pattern: str) -> Path:
    """Return ``path``, marked as used now; its neighbours of that glob pattern go when unused for a week."""
    with contextlib.suppress(OSError):  # a cache that may only be read
        os.utime(path)
        for other in path.parent.glob(pattern):
            if other != path and time.time() - other.stat().st_mtime > 7 * 86400:
                if other.is_dir():
                    shutil.rmtree(other, ignore_errors=True)
                else:
                    other.unlink()
    return path
