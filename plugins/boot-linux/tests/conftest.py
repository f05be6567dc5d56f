# SPDX-License-Identifier: Apache-2.0
"""A planning context of our own, and real kernels where there are some."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from builders import bzimage, pages

from vmm_boot_linux import cache, planning
from vmm_boot_linux.options import BootOptions
from vmm_boot_linux.plugin import vmm_boot_probe, vmm_device_types
from vmmcore.errors import UserError

MIB, GIB = 1 << 20, 1 << 30


class Context:
    """What a boot method uses of vmmcore's PlanContext, with the guest's RAM as a sparse dict."""

    dry_run = False

    def __init__(self, size: int, initramfs: Path | None = None, options: BootOptions | None = None,
                 arch: str = "x86_64") -> None:
        self.arch = SimpleNamespace(name=arch)
        self.config = SimpleNamespace(initramfs=None if initramfs is None else str(initramfs))
        if arch == "x86_64":
            low = min(size, 3 << 30)
            self.layout = SimpleNamespace(ram=[(0, 0xA0000), (MIB, low - MIB)], load_min=MIB, low_ram_end=low, extra={})
        else:
            low = min(size, 0xFC000000 - GIB)
            ram = [(GIB, low), *([(4 * GIB, size - low)] if size > low else [])]
            self.layout = SimpleNamespace(ram=ram, load_min=GIB + 4 * MIB, low_ram_end=GIB + low, extra={})
        self.files: list[tuple[str, int]] = []
        self.load: list[tuple[int, int, int, int]] = []
        if options is not None:
            (kind,) = vmm_device_types()
            assert kind.plan is not None and kind.plan(cast(Any, self), options, {}) is False

    def open_file(self, path: str, option: str, mode: str = "r") -> int:
        try:
            self.files.append((path, os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
        except OSError as error:
            raise UserError(option, f"{path}: {error.strerror}") from None
        return len(self.files) - 1

    def adopt_fd(self, fd: int, description: dict[str, Any]) -> int:
        self.files.append((str(description), fd))
        return len(self.files) - 1

    def fd(self, index: int) -> int:
        return self.files[index][1]

    def load_file(self, gpa: int, file_index: int, offset: int, size: int) -> None:
        assert any(base <= gpa and gpa + size <= base + length for base, length in self.layout.ram)
        self.load.append((gpa, file_index, offset, size))

    def memory(self) -> dict[int, bytes]:
        """What the runner would load, as builders.pages()."""
        result = {}
        for gpa, index, offset, size in self.load:
            data = os.pread(self.fd(index), size, offset)
            assert len(data) == size, "the load list reaches behind the file"
            result[gpa] = data
        return pages(result)

    def close(self) -> None:
        for _, fd in self.files:
            os.close(fd)


Plan = Callable[..., tuple[dict[str, Any], Context]]


@pytest.fixture
def plan() -> Iterator[Plan]:
    """plan(path, memory=bytes, initramfs=path, arch=…, protocol=…, extract=…) -> (entry, context)"""
    contexts = []

    def run(path: Path, memory: int = 256 * MIB, initramfs: Path | None = None,
            dry_run: bool = False, arch: str = "x86_64", **options: str) -> tuple[dict[str, Any], Context]:
        context = Context(memory, initramfs, BootOptions(**options) if options else None, arch)
        context.dry_run = dry_run
        contexts.append(context)
        with open(path, "rb") as file:
            head = file.read(65536)
        claim = vmm_boot_probe(str(path), head, path.stat().st_size)
        assert claim is not None, "not claimed"
        entry: dict[str, Any] = claim.plan(cast(Any, context))
        return entry, context

    yield run
    for context in contexts:
        context.close()


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """host(arch) makes this host one of that architecture; it begins as x86-64."""
    def become(arch: str) -> None:
        monkeypatch.setattr(planning, "machine", lambda: arch)

    become("x86_64")
    return become


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "vmm" / "boot"


def settle(path: Path) -> None:
    """Wait until the file's last change is old enough for its key to be remembered."""
    while time.time_ns() - path.stat().st_ctime_ns <= cache.RACY:
        os.sched_yield()


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A synthetic bzImage."""
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage())
    settle(path)
    return path


def _real_kernels() -> list[Path]:
    named = os.environ.get("VMM_TEST_KERNELS", "")
    if named:
        return [Path(name) for name in named.split(":")]
    return sorted(path for path in Path("/boot").glob("vmlinuz-*") if os.access(path, os.R_OK))


@pytest.fixture(params=["cloud-amd64", "amd64"])
def debian(request: pytest.FixtureRequest) -> Path:
    """A stock Debian kernel: from VMM_TEST_KERNELS (paths joined by ':'), /boot, or the test kit."""
    flavour: str = request.param
    return _debian(flavour)


def debian_arm64(flavour: str) -> Path:
    """The same for arm64, where ``arm64`` is the flavour with all drivers. Skips without one."""
    return _debian(flavour)


def _debian(flavour: str) -> Path:
    for path in _real_kernels():
        if path.name.endswith("-" + flavour) and ("cloud" in path.name) == ("cloud" in flavour):
            return path
    try:
        from vmm_testkit.kernels import FLAVOURS, KernelError, debian_kernel
    except ImportError:
        pytest.skip(f"no Debian {flavour} kernel: install vmm-testkit, or name files in VMM_TEST_KERNELS")
    if flavour not in FLAVOURS:
        pytest.skip(f"no Debian {flavour} kernel: this vmm-testkit cannot fetch it; name files in VMM_TEST_KERNELS")
    try:
        vmlinuz: Path = debian_kernel(flavour).vmlinuz
    except KernelError as error:
        pytest.skip(f"no Debian {flavour} kernel: {error}")
    return vmlinuz
