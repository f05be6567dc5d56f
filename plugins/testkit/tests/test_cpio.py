# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vmm_testkit.cpio import CpioWriter


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.cpio"
    with open(path, "wb") as file:
        writer = CpioWriter(file)
        writer.file("/deep/er/file", b"hello\n", 0o640)
        writer.file("odd", b"x" * 1021, 0o755)
        writer.symlink("bin/sh", "busybox")
        writer.device("dev/console", "c", 5, 1)
        writer.device("dev/disk", "b", 254, 3)
        writer.directory("deep", 0o700)
        writer.close()
    return path


def cpio(archive: Path, *options: str, cwd: Path | None = None) -> str:
    if shutil.which("cpio") is None:
        pytest.skip("cpio is missing: run `apt-get install cpio` as root")
    with open(archive, "rb") as file:
        done = subprocess.run(
            ["cpio", "--quiet", *options], stdin=file, capture_output=True, text=True, cwd=cwd, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_cpio_lists_all_members_with_their_parents_once(archive: Path) -> None:
    names = cpio(archive, "-t").split()
    assert sorted(names) == [
        "bin", "bin/sh", "deep", "deep/er", "deep/er/file", "dev", "dev/console", "dev/disk", "odd",
    ]  # fmt: skip
    assert names.index("deep") < names.index("deep/er") < names.index("deep/er/file")


def test_cpio_sees_modes_links_and_device_numbers(archive: Path) -> None:
    lines = {line.split()[-1]: line for line in cpio(archive, "-tv", "-n").splitlines()}
    assert lines["deep/er/file"].startswith("-rw-r-----")
    assert lines["odd"].startswith("-rwxr-xr-x")
    assert lines["busybox"].startswith("l") and "bin/sh -> busybox" in lines["busybox"]
    assert lines["dev/console"].startswith("crw-------") and "5,   1" in lines["dev/console"]
    assert lines["dev/disk"].startswith("b") and "254,   3" in lines["dev/disk"]


def test_cpio_extracts_contents_unchanged(archive: Path, tmp_path: Path) -> None:
    into = tmp_path / "out"
    into.mkdir()
    cpio(archive, "-i", "-d", "deep/er/file", "odd", "bin/sh", cwd=into)
    assert (into / "deep/er/file").read_bytes() == b"hello\n"
    assert (into / "odd").read_bytes() == b"x" * 1021
    assert (into / "bin/sh").readlink() == Path("busybox")


def test_archives_can_be_appended(archive: Path) -> None:
    # The kernel unpacks concatenated archives; each must end on a boundary of 4 bytes.
    assert archive.stat().st_size % 512 == 0
