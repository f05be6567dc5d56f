# SPDX-License-Identifier: Apache-2.0
"""The QEMU that emulates the lab's host: this machine's if it is new enough, else one from Debian's packages.

The SVM that QEMU's TCG emulates loses interrupts, guests, and now and then its own CPUs, before version 11. Where the
machine has an older one, a newer is fetched with apt, together with all the libraries that it needs, and unpacked into
the cache. That needs no root, and installs nothing. ``$VMM_LAB_QEMU`` names another program, and then nothing is fetched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from vmm_testkit.apt import PrivateApt
from vmm_testkit.arch import NEXT_SUITE
from vmm_testkit.cache import cache_dir, locked, make_dir
from vmm_testkit.host import debian_mirror
from vmm_testkit.lab_session import LabMissing

#: the first major version whose emulated SVM is good enough
WANTED = 11
PROGRAMS = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}
#: after a fetch that failed, the next is this many seconds away
_AGAIN = 12 * 3600.0


class QemuError(LabMissing):
    """No QEMU: one line that says why and what to do."""


@dataclass(frozen=True)
class Qemu:
    """A QEMU: ``command`` starts it, with ``env`` added to the environment.

    ``program`` is the same without the search path of its ROMs: the last word is QEMU, what stands before that loads it
    with libraries of its own. ``folders`` are where its ROMs are; none: where it looks by itself.
    """

    program: tuple[str, ...]
    version: tuple[int, ...]
    env: dict[str, str] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    #: why it is not a newer one; "" if it is good enough
    note: str = ""

    @property
    def command(self) -> tuple[str, ...]:
        return (*self.program, *(word for folder in self.folders for word in ("-L", str(folder))))


def lab_qemu(arch: str = "x86_64", *, counted: bool = False) -> Qemu:
    """The QEMU for a lab that emulates `arch` ("x86_64", "aarch64"). The first call may fetch it. Raises QemuError.

    ``counted``: for a clock that counts instructions. There this machine's own is taken: with version 11.1, guests of
    such a lab stand still as soon as they have a disk under load.
    """
    name = f"qemu-system-{arch}"
    if chosen := os.environ.get("VMM_LAB_QEMU"):
        found = shutil.which(chosen)
        if found is None:
            raise QemuError(f"VMM_LAB_QEMU: {chosen}: no such program")
        return Qemu((found,), _version((found,)))
    own = None
    if found := shutil.which(name):
        own = Qemu((found,), _version((found,)))
        if counted or own.version[0] >= WANTED:
            return own
    store = cache_dir("qemu")
    failed = store / f".{arch}.failed"
    trees = _trees(store, arch)
    if not trees:
        with locked(store / f".{arch}.fetch"):
            trees = _trees(store, arch)
            if not trees and not _recent(failed):
                try:
                    _fetch(store, arch)
                    failed.unlink(missing_ok=True)
                except (QemuError, OSError, subprocess.SubprocessError) as error:
                    failed.write_text(f"{error}\n")
                trees = _trees(store, arch)
    if trees:
        return _unpacked(trees[-1], name)
    why = failed.read_text().strip() if failed.exists() else "it was removed"
    if own is None:
        raise QemuError(f"{name} is missing: run `apt-get install {PROGRAMS[arch]}` as root (no newer one is to be had: {why})")
    note = f"QEMU {own.version[0]}.{own.version[1]} loses guests, and a newer one is not to be had: {why}"
    return replace(own, note=note)


def _trees(store: Path, arch: str) -> list[Path]:
    return sorted(path for path in store.glob(f"{PROGRAMS[arch]}_*") if (path / f"usr/bin/qemu-system-{arch}").exists())


def _recent(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < _AGAIN
    except OSError:
        return False


def _unpacked(tree: Path, name: str) -> Qemu:
    """The QEMU in a tree of unpacked packages; it runs with the tree's own libraries."""
    loader = next(iter(sorted(tree.glob("usr/lib/*/ld-linux-*.so.*"))), None)
    if loader is None:
        raise QemuError(f"{tree}: no C library in it")
    folders = tuple(path for path in (tree / "usr/share/qemu", tree / "usr/share/seabios") if path.is_dir())
    start = (str(loader), "--library-path", str(loader.parent), str(tree / "usr/bin" / name))
    env = {"QEMU_MODULE_DIR": str(loader.parent / "qemu")}
    return Qemu(start, _version(start, env), env, folders)


def _version(command: tuple[str, ...], env: dict[str, str] | None = None) -> tuple[int, ...]:
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=False, timeout=60,
            env=os.environ | (env or {}),
        )  # fmt: skip
    except OSError as error:
        raise QemuError(f"{command[0]}: {error.strerror}") from None
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    if found is None:
        said = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
        raise QemuError(f"{command[-1]} --version: {said}")
    return int(found[1]), int(found[2])


def _fetch(store: Path, arch: str) -> None:
    """Unpack the package and all that it depends on into ``store/PACKAGE_VERSION``. Raises QemuError."""
    package = PROGRAMS[arch]
    target = f"{NEXT_SUITE}-backports"
    root = store / f"apt-{arch}"
    try:
        apt = PrivateApt(QemuError, root, debian_mirror(QemuError), (NEXT_SUITE, target))
        apt.update()
        version = apt.version(package)
        if not version or int(re.sub(r"^\d+:", "", version).split(".")[0]) < WANTED:
            raise QemuError(f"{target} has no {package} of version {WANTED} or newer")

        def fill(tree: Path) -> None:
            apt.unpack(tree, [package])
            _unpacked(tree, f"qemu-system-{arch}")  # does it run here?

        make_dir(store / f"{package}_{version.replace(':', '%3a')}", fill)
    finally:
        shutil.rmtree(root, ignore_errors=True)
