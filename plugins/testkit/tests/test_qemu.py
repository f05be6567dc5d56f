# SPDX-License-Identifier: Apache-2.0
"""Which QEMU the lab takes; apt and QEMU are stand-ins, dpkg-deb is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vmm_testkit.qemu import QemuError, lab_qemu

APT_GET = """#!/bin/sh
echo "apt-get $*" >> {log}
case "$*" in
  *indextargets*) echo "bookworm main http://mirror.example/debian/" ;;
  *" update") grep -q 'http://mirror.example/debian trixie-backports main' {store}/apt-x86_64/sources.list ;;
  *" --download-only "*) cp {debs}/*.deb {store}/apt-x86_64/cache/archives/ ;;
esac
"""
APT_CACHE = """#!/bin/sh
echo "Version: 1:{version}"
"""


class Machine:
    """A machine with the programs that it is given, and nothing else but a shell's."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin, self.cache, self.debs, self.log = (path / name for name in ("bin", "cache", "debs", "log"))
        self.bin.mkdir()
        self.debs.mkdir()
        for name in ("sh", "cp", "grep", "tar", "dpkg-deb", "rm"):
            if program := shutil.which(name):
                (self.bin / name).symlink_to(program)
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.cache))
        monkeypatch.delenv("VMM_LAB_QEMU", raising=False)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def qemu(self, version: str, name: str = "qemu-system-x86_64") -> None:
        self.program(name, f"#!/bin/sh\necho 'QEMU emulator version {version} (Debian)'\n")

    def apt(self, version: str) -> None:
        words = {"log": self.log, "store": self.cache / "vmm/qemu", "debs": self.debs, "version": version}
        self.program("apt-get", APT_GET.format(**words))
        self.program("apt-cache", APT_CACHE.format(**words))

    def package(self, script: str) -> None:
        tree = self.debs / "tree"
        (tree / "usr/bin").mkdir(parents=True)
        (tree / "usr/lib/arch").mkdir(parents=True)
        loader = tree / "usr/lib/arch/ld-linux-arch.so.2"  # called as glibc's: --library-path FOLDER PROGRAM …
        loader.write_text('#!/bin/sh\nshift 2\nexec sh "$@"\n')
        loader.chmod(0o755)
        (tree / "usr/share/qemu").mkdir(parents=True)
        (tree / "usr/bin/qemu-system-x86_64").write_text(script)
        (tree / "usr/bin/qemu-system-x86_64").chmod(0o755)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(
            "Package: qemu-system-x86\nVersion: 1:10.0\nArchitecture: all\nMaintainer: A <a@example.com>\nDescription: x\n"
        )
        if not (self.bin / "dpkg-deb").exists():
            pytest.skip("dpkg-deb is missing: run `apt-get install dpkg` as root")
        env = os.environ | {"PATH": os.defpath}
        subprocess.run(["dpkg-deb", "-b", tree, self.debs / "qemu.deb"], check=True, env=env, capture_output=True)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_new_one_is_taken_as_it_is(machine: Machine) -> None:
    machine.qemu("11.2.2")
    machine.apt("12.0")
    found = lab_qemu()
    assert (found.command, found.version, found.env, found.note) == ((f"{machine.bin}/qemu-system-x86_64",), (11, 2), {}, "")
    assert not machine.log.exists()


def test_for_an_old_one_the_backport_is_fetched_once(machine: Machine) -> None:
    machine.qemu("7.2.22")
    machine.apt("11.1.3+ds-1~bpo13+1")
    machine.package('#!/bin/sh\necho "QEMU emulator version 11.1.3, $QEMU_MODULE_DIR"\n')
    found = lab_qemu()
    assert found.version == (11, 1)
    assert found.note == ""
    assert machine.cache in Path(found.command[0]).parents
    assert found.command[-2:] == ("-L", str(found.folders[0]))
    assert found.folders[0].name == "qemu"
    asked = machine.log.read_text()
    assert " --download-only " in asked
    assert lab_qemu() == found
    assert machine.log.read_text() == asked


def test_a_clock_that_counts_has_the_machines_own(machine: Machine) -> None:
    machine.qemu("7.2.22")
    machine.apt("11.1.3")
    found = lab_qemu(counted=True)
    assert (found.version, found.note) == ((7, 2), "")
    assert not machine.log.exists()


def test_without_a_newer_one_the_old_one_does_and_says_why(machine: Machine) -> None:
    machine.qemu("7.2.22")
    machine.apt("10.2.0")
    for _ in range(2):
        found = lab_qemu()
        assert found.command == (f"{machine.bin}/qemu-system-x86_64",)
        assert re.fullmatch(r"QEMU 7\.2 loses guests, .*trixie-backports has no qemu-system-x86.*", found.note)
    assert machine.log.read_text().count(" update") == 1


def test_a_package_that_does_not_run_here_leaves_the_old_one(machine: Machine) -> None:
    machine.qemu("7.2.22")
    machine.apt("11.0.2")
    machine.package("#!/bin/sh\necho 'libfoo.so.1: cannot open' >&2\nexit 127\n")
    found = lab_qemu()
    assert found.version == (7, 2)
    assert "libfoo.so.1: cannot open" in found.note
    assert not list((machine.cache / "vmm/qemu").glob("qemu-system*"))


def test_a_machine_without_apt_has_its_own(machine: Machine) -> None:
    machine.qemu("8.1.0")
    assert "apt-get is missing" in lab_qemu().note


def test_one_that_is_named_is_taken(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.qemu("6.0.0", "my-qemu")
    monkeypatch.setenv("VMM_LAB_QEMU", f"{machine.bin}/my-qemu")
    assert lab_qemu().version == (6, 0)
    monkeypatch.setenv("VMM_LAB_QEMU", f"{machine.bin}/none")
    with pytest.raises(QemuError, match=r"^VMM_LAB_QEMU: .*/none: no such program"):
        lab_qemu()


def test_without_any_the_mend_is_named(machine: Machine) -> None:
    with pytest.raises(QemuError, match="qemu-system-aarch64 is missing: run `apt-get install qemu-system-arm`"):
        lab_qemu("aarch64")


def test_the_mirror_that_is_named_is_asked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.qemu("7.2.22")
    machine.apt("10.2.0")
    monkeypatch.setenv("VMM_DEBIAN_MIRROR", "http://other.example/debian")
    assert "apt-get: status 1" in lab_qemu().note  # the stand-in knows mirror.example only
    assert "indextargets" not in machine.log.read_text()
