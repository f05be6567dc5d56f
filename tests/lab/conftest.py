# SPDX-License-Identifier: Apache-2.0
"""Guests for the lab suite: both Debian kernels, and one initramfs each for all of a session's tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from vmm_testkit.arch import Arch, arch_of
from vmm_testkit.guest import DebianGuest
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel
from vmm_testkit.kernels import debian_kernel as newest_kernel
from vmm_testkit.lab import in_lab

#: Debian's arm64 kernels have no driver for it
MODULES = {"x86_64": ["pvpanic-pci"], "aarch64": []}


@pytest.fixture(scope="session")
def arch() -> Arch:
    """The architecture of this host, and so of its guests."""
    return arch_of()


@pytest.fixture(scope="session")
def kernel_of() -> Callable[[str], Kernel]:
    """The newest Debian kernel of a flavour, "cloud" or "standard"."""
    return newest_kernel


@pytest.fixture(scope="session")
def initramfs_of(kernel_of: Callable[[str], Kernel], arch: Arch) -> Callable[[str], Path]:
    """An initramfs with a command loop, lspci and the modules that these tests use."""
    made: dict[str, Path] = {}

    def build(flavour: str) -> Path:
        if flavour not in made:
            kernel = kernel_of(flavour)
            made[flavour] = Initramfs(kernel, modules=MODULES[arch.name], programs=["/usr/bin/lspci"],
                                      files={"/usr/share/misc/pci.ids": b"\n"}).build()
        return made[flavour]

    return build


VIRTIO_MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio-rng"]


@pytest.fixture
def virtio_guest(debian_guest: Callable[..., DebianGuest], debian_kernel: Kernel) -> Callable[..., DebianGuest]:
    """A small guest with the virtio drivers; `modules` gives one of them options, `programs` come from this machine."""

    def make(*args: str, modules: Sequence[str] = (), programs: Sequence[str] = (), **keywords: Any) -> DebianGuest:
        drivers = [*(name for name in VIRTIO_MODULES if name not in {m.split()[0] for m in modules}), *modules]
        image = Initramfs(debian_kernel, modules=drivers, programs=programs).build()
        return debian_guest(*args, initramfs=image, **keywords)

    return make


@pytest.fixture
def image(tmp_path: Path) -> Callable[..., Path]:
    """``image(mib) -> Path``: an empty raw image."""

    def make(mib: int, name: str = "disk.img", folder: Path | None = None) -> Path:
        path = (folder or tmp_path) / name
        with open(path, "wb") as file:
            file.truncate(mib << 20)
        return path

    return make


@pytest.fixture
def host_filesystem(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """``host_filesystem(mib) -> Path``: an ext4 of that size, mounted for the time of the test."""
    if not in_lab():
        pytest.skip("mounts a file system on the host: run it in the lab (pytest --lab)")
    mounted: list[Path] = []

    def make(mib: int) -> Path:
        where = tmp_path / f"mount{len(mounted)}"
        where.mkdir()
        backing = tmp_path / f"{where.name}.img"
        with open(backing, "wb") as file:
            file.truncate(mib << 20)
        subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-m", "0", backing], check=True)
        subprocess.run(["mount", "-o", "loop", backing, where], check=True)
        mounted.append(where)
        return where

    yield make
    for where in mounted:
        subprocess.run(["umount", where], check=True)
