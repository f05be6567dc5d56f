# SPDX-License-Identifier: Apache-2.0
"""The lab of the other architecture, and what it is made of: kernels, root, packages built for it."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from vmm_testkit import foreign_packages as packages
from vmm_testkit.arch import ARCHES, ArchError, arch_of
from vmm_testkit.cache import keep_newest
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel, KernelError
from vmm_testkit.kernels import debian_kernel as fetch
from vmm_testkit.lab import Lab
from vmm_testkit.lab_session import LabMissing

OTHER = next(arch for arch in ARCHES.values() if not arch.native)
CLI = [sys.executable, "-m", "vmm_testkit.cli"]


@pytest.fixture(autouse=True)
def _outside() -> None:
    if os.environ.get("VMM_IN_LAB"):
        pytest.skip("the lab has no network")


@pytest.fixture
def kernel() -> Kernel:
    try:
        return fetch(OTHER.flavours[0])
    except KernelError as error:
        pytest.skip(f"no Debian kernel: {error}")


@pytest.fixture
def root() -> Path:
    try:
        return packages.foreign_root(OTHER)
    except LabMissing as error:
        pytest.skip(f"no root: {error}")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """A core and two plugins, one of which does not compile; the current directory is within. Nothing from an index."""
    if shutil.which(f"{OTHER.triplet}-gcc") is None:
        pytest.skip(f"needs a cross compiler: apt-get install gcc-{OTHER.triplet}".replace("_", "-"))
    folder = tmp_path / "checkout"
    make_project(folder, "vmmcore", "int native_core(void) { return 1; }")
    make_project(folder / "plugins/good", "vmm_good", "")
    make_project(folder / "plugins/bad", "vmm_bad", "#include <no-such-header.h>")
    (tmp_path / "index").mkdir()
    monkeypatch.setattr(packages, "_from_index", lambda arch, wanted: tmp_path / "index")
    monkeypatch.chdir(folder / "plugins")
    packages.foreign_packages.cache_clear()
    return folder


def make_project(folder: Path, module: str, code: str) -> None:
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text("VALUE = 7\n")
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{module.replace("_", "-")}"\nversion = "1"\n'
        f'[project.scripts]\n{module}-tool = "{module}:main"\n[tool.setuptools]\npackages = ["{module}"]\n'
    )
    if code:
        (folder / f"{module}/native.c").write_text(f"#include <Python.h>\n{code}\nPyMODINIT_FUNC PyInit__n(void) {{ return 0; }}\n")
        (folder / "setup.py").write_text(
            "from setuptools import Extension, setup\n"
            f'setup(ext_modules=[Extension("{module}._n", ["{module}/native.c"], py_limited_api=True)])\n'
        )


class Installed:
    """A distribution that pip has unpacked from a wheel."""

    def read_text(self, name: str) -> None:
        return None


def machine_of(elf: bytes) -> int:
    assert elf[:4] == b"\x7fELF"
    return int(struct.unpack_from("<H", elf, 18)[0])


def test_what_is_unused_for_a_week_goes(tmp_path: Path) -> None:
    for name in ("x-old", "x-new", "y-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for name in ("x-old", "y-old"):
        os.utime(tmp_path / name, (0, 0))
    assert keep_newest(tmp_path / "x-new", "x-*") == tmp_path / "x-new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-new", "y-old"]


def test_a_bad_architecture_names_the_good_ones() -> None:
    with pytest.raises(ArchError, match="'sparc': use one of x86_64, aarch64"):
        arch_of("sparc")
    done = subprocess.run([*CLI, "--arch", "sparc", "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 2


def test_kernels_know_their_architecture(kernel: Kernel) -> None:
    assert kernel.arch is OTHER
    assert "CONFIG_KVM=" in kernel.config.read_text()
    assert fetch("cloud").arch.native


def test_an_initramfs_has_programs_of_the_kernels_architecture(kernel: Kernel, root: Path, tmp_path: Path) -> None:
    image = Initramfs(kernel, modules=["virtio_blk"], programs=["/usr/bin/lspci"]).write(tmp_path / "image")
    subprocess.run([shutil.which("busybox") or "busybox", "cpio", "-idmu", "-F", image], cwd=tmp_path, check=False,
                   capture_output=True)
    for name in ("bin/busybox", "usr/bin/lspci", f"usr/lib/{OTHER.triplet}/libc.so.6", "lib/modules/virtio_blk.ko"):
        assert machine_of((tmp_path / name).read_bytes()) == OTHER.elf, name
    assert not (tmp_path / "sbin/stamp").exists() or OTHER.name == "x86_64"


def test_packages_are_built_once_and_a_bad_one_is_named(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tree = packages.foreign_packages(OTHER)
    said = capfd.readouterr().err
    assert re.search(rf"^vmm lab: {checkout}/plugins/bad does not build for {OTHER.name}: .*no-such-header.h", said)
    site = next(tree.glob("lib/python3*/site-packages"))
    assert machine_of(next((site / "vmmcore").glob("_n*.so")).read_bytes()) == OTHER.elf
    assert (site / "vmm_good/__init__.py").exists()
    assert not (site / "vmm_bad").exists()
    assert (tree / "bin/vmm_good-tool").read_text().startswith(f"#!{tree}/bin/python\n")
    assert list(checkout.glob("**/*.so")) == list(checkout.glob("**/build")) == []
    packages.foreign_packages.cache_clear()
    assert packages.foreign_packages(OTHER) == tree
    (checkout / "plugins/good/vmm_good/__init__.py").write_text("VALUE = 8\n")
    packages.foreign_packages.cache_clear()
    other = packages.foreign_packages(OTHER)
    assert "VALUE = 8" in next(other.glob("lib/python3*/site-packages/vmm_good/__init__.py")).read_text()


def test_a_missing_compiler_is_named(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "find", lambda error, program, package: (_ for _ in ()).throw(error(package)))
    (checkout / "vmmcore/__init__.py").write_text(f"# {tmp_path}: never built before\n")
    with pytest.raises(LabMissing, match=f"gcc-{OTHER.triplet}".replace("_", "-")):
        packages.foreign_packages(OTHER)


def test_the_sources_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packages.metadata.Distribution, "from_name", lambda name: Installed())
    packages.foreign_packages.cache_clear()
    with pytest.raises(LabMissing, match="in a checkout"):
        packages.foreign_packages(OTHER)


@pytest.mark.busybox
def test_a_job_runs_there(root: Path, tmp_path: Path) -> None:
    (tmp_path / "job.txt").write_text("from outside\n")
    shared = tmp_path / "shared"
    shared.mkdir()
    job = """
import os, platform, sys, vmmcore._native
from importlib.metadata import entry_points
print(platform.machine(), os.getuid(), os.getcwd(), open("job.txt").read().strip(), os.environ["WORD"])
print(os.access("/dev/kvm", os.R_OK | os.W_OK), len(entry_points(group="vmmcore")) > 4, sys.prefix != "/usr")
open("shared/kept", "w").write("kept"); open("lost", "w").write("lost")
sys.stderr.write("err"); sys.exit(42)
"""
    out, err = io.BytesIO(), io.BytesIO()
    try:
        lab = Lab(arch=OTHER.name, out=shared)
        status = lab.run([lab.python, "-c", job], cwd=tmp_path, env={"WORD": "a b"}, timeout=240, stdout=out, stderr=err)
    except LabMissing as error:
        pytest.skip(f"no lab: {error}")
    assert out.getvalue().decode().splitlines() == [
        f"{OTHER.name} 0 {tmp_path} from outside a b", "True True True",
    ]  # fmt: skip
    assert (status, err.getvalue()) == (42, b"err")
    assert (shared / "kept").read_text() == "kept"
    assert not (tmp_path / "lost").exists()
