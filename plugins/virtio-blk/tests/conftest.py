# SPDX-License-Identifier: Apache-2.0
"""Images, and a small file system of the test's own."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1 << 20


def pattern(size: int) -> bytes:
    """Bytes of which no two sectors are alike."""
    return b"".join(n.to_bytes(8, "little") * 64 for n in range(1, size // 512 + 1))


@pytest.fixture
def direct(tmp_path: Path) -> None:
    """Skips where the tests' folder is on a file system without direct I/O."""
    try:
        os.close(os.open(tmp_path / "direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip(f"{tmp_path} has no direct I/O; use --basetemp on ext4 or xfs")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A raw image of 4 MiB."""
    path = tmp_path / "disk.img"
    path.write_bytes(pattern(4 * MIB))
    return path


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "small"
    folder.mkdir()
    if libc.mount(b"none", str(folder).encode(), b"tmpfs", 0, b"size=2M"):
        pytest.skip(f"cannot mount a tmpfs ({os.strerror(ctypes.get_errno())}); run as root")
    yield folder
    libc.umount2(str(folder).encode(), 2)


@pytest.fixture
def loop_device(image: Path) -> Iterator[Path]:
    """A block device over `image`, with logical blocks of 4096 bytes."""
    if shutil.which("losetup") is None:
        pytest.skip("needs losetup; apt install mount")
    made = subprocess.run(["losetup", "-b", "4096", "-f", "--show", str(image)], check=False, capture_output=True,
                          text=True)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}; run as root")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)
