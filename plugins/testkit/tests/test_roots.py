# SPDX-License-Identifier: Apache-2.0
"""Debian root file systems, and the guest that lives on one. QEMU stands in for the VMM."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from vmm_testkit.kernels import Kernel
from vmm_testkit.lab import drive
from vmm_testkit.roots import DebianRoot, RootError, debian_root
from vmm_testkit.system import DebianSystem, borrowed_root, lab_drives

QEMU = [
    "qemu-system-x86_64", "-accel", "tcg", "-M", "q35", "-cpu", "max", "-m", "512", "-nodefaults", "-no-user-config",
    "-display", "none", "-serial", "stdio", "-kernel", "{kernel}", "-initrd", "{initramfs}", "-append", "{cmdline}",
    "-drive", "file={root},if=none,id=root,format=raw", "-device", "virtio-blk-pci,drive=root,disable-legacy=on",
]  # fmt: skip
MODULES_DEP = "kernel/a.ko:\n"


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """The smallest tree that looks like a kernel's."""
    modules = tmp_path / "kernel/lib/modules/6.1.0-test"
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text(MODULES_DEP)
    (tmp_path / "vmlinuz").write_bytes(b"MZ")
    return Kernel(tmp_path / "vmlinuz", modules, "6.1.0-test", tmp_path / "config", "linux-image-test_1")


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, and an mmdebstrap that packs a little tree at once; the file counts its runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tree = tmp_path / "tree"
    for folder in ("etc", "usr/lib", "usr/share/doc/x", "var/log"):
        (tree / folder).mkdir(parents=True)
    (tree / "etc/shadow").write_text("root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n")
    (tree / "lib").symlink_to("usr/lib")
    (tree / "escape").symlink_to(tmp_path / "outside")
    runs = tmp_path / "runs"
    programs = tmp_path / "bin"
    programs.mkdir()
    script = programs / "mmdebstrap"
    script.write_text(
        f'#!/bin/sh\necho run >> {runs}\nfor word; do last2=$last1; last1=$word; done\n'
        f'case "$*" in *broken*) echo "E: no such package: broken" >&2; exit 25 ;; esac\n'
        f'sleep 0.5\ntar -C {tree} -cf "$last2" .\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    if not shutil.which("mke2fs", path="/usr/sbin:/sbin"):
        pytest.skip("mke2fs is missing: run `apt-get install e2fsprogs` as root")
    return runs


def look(image: Path, command: str) -> str:
    """What debugfs(8) says."""
    done = subprocess.run(["/usr/sbin/debugfs", "-R", command, image], capture_output=True, text=True, check=False)
    return done.stdout


def test_an_image_is_built_once_and_is_sound(kernel: Kernel, packages: Path) -> None:
    root = DebianRoot(kernel, size_mib=64, files={"/etc/motd": b"hello\n"})
    image = root.build()
    assert DebianRoot(kernel, size_mib=64, files={"/etc/motd": b"hello\n"}).build() == image
    assert packages.read_text() == "run\n"
    assert image.stat().st_size == 64 << 20
    assert image.stat().st_blocks * 512 < 8 << 20  # sparse
    done = subprocess.run(["/usr/sbin/e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert look(image, "cat /etc/motd") == "hello\n"
    assert look(image, "cat /etc/shadow").startswith("root::19000:")
    assert "doc" not in look(image, "ls /usr/share")
    assert "modules.dep.bin" in look(image, "ls /usr/lib/modules/6.1.0-test")
    assert "testkit-loop.service" in look(image, "ls /etc/systemd/system")


def test_other_words_make_another_image(kernel: Kernel, packages: Path) -> None:
    keys = {
        DebianRoot(kernel).key,
        DebianRoot(kernel, size_mib=2048).key,
        DebianRoot(kernel, packages=["systemd"]).key,
        DebianRoot(kernel, files={"a": b"1"}).key,
        DebianRoot(kernel, files={"a": b"2"}).key,
        DebianRoot(kernel, hostname="other").key,
        DebianRoot(kernel, mirror="http://127.0.0.1/debian").key,
    }
    assert len(keys) == 7


def _build(kernel: Kernel) -> None:
    DebianRoot(kernel, size_mib=64).build()


def test_two_builders_at_once(kernel: Kernel, packages: Path) -> None:
    builders = [multiprocessing.get_context("fork").Process(target=_build, args=(kernel,)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    assert packages.read_text() == "run\n"


def test_a_build_that_fails_leaves_nothing(
    kernel: Kernel, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with pytest.raises(RootError, match=r"^mmdebstrap: E: no such package: broken; .*VMM_DEBIAN_MIRROR"):
        DebianRoot(kernel, packages=["broken"]).build()
    with pytest.raises(RootError, match="mke2fs"):
        DebianRoot(kernel, size_mib=64, files={"big": os.urandom(80 << 20)}).build()
    assert [path.name for path in (tmp_path / "cache/vmm/roots").iterdir() if path.suffix != ".lock"] == []
    assert list(scratch.iterdir()) == []


def test_nothing_is_written_outside_of_the_tree(kernel: Kernel, packages: Path, tmp_path: Path) -> None:
    with pytest.raises(RootError, match="leads out"):
        DebianRoot(kernel, size_mib=64, files={"escape/file": b"x"}).build()
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("word", ["a b", "--option", "", "x;y"])
def test_bad_names_are_refused(kernel: Kernel, word: str) -> None:
    with pytest.raises(RootError, match="no name"):
        DebianRoot(kernel, packages=[word])


def test_missing_mmdebstrap_is_one_line(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    with pytest.raises(RootError, match=r"^mmdebstrap is missing: run `apt-get install mmdebstrap` as root$"):
        DebianRoot(kernel).build()


def test_no_drive_of_that_name() -> None:
    assert drive("no-such-drive") is None


@pytest.mark.busybox
@pytest.mark.timeout(600)
def test_a_debian_boots_reboots_and_forgets(debian_kernel: Kernel, qemu: str, tmp_path: Path) -> None:
    if os.environ.get("VMM_IN_LAB"):
        pytest.skip("QEMU in QEMU is slow, and the lab has no network")
    try:
        image = debian_root(debian_kernel).build()
    except RootError as error:
        pytest.skip(f"no Debian root file system: {error}")
    assert len(lab_drives(debian_kernel)) > 1
    made = image.stat()
    assert debian_root(debian_kernel).build() == image
    assert (image.stat().st_ino, image.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    with borrowed_root(debian_kernel, tmp_path) as root, DebianSystem(debian_kernel, root, argv=QEMU) as guest:
        assert guest.check("systemctl is-system-running --wait").strip() == "running"
        assert guest.check("findmnt -no FSTYPE /").strip() == "ext4"
        guest.check("fio --version && iperf3 --version && ethtool --version && mkfs.ext4 -V && ping -c 1 localhost")
        guest.check(f"modprobe virtio_net && echo mark > /mark && test $(uname -r) = {debian_kernel.version}")
        guest.reboot(180)
        assert guest.check("cat /mark") == "mark\n"
        assert guest.poweroff(60) == 0
    assert list(tmp_path.iterdir()) == []
    with borrowed_root(debian_kernel, tmp_path) as root:
        assert b"mark" not in look(root, "ls /").encode()
