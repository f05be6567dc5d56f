# SPDX-License-Identifier: Apache-2.0
"""Debian root file systems: built from packages with mmdebstrap, made into ext4 images, and cached."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from vmm_testkit.arch import SUITE
from vmm_testkit.cache import cache_dir, locked
from vmm_testkit.host import debian_mirror, find, run
from vmm_testkit.kernels import Kernel
from vmm_testkit.root_files import removed, root_files, root_links

#: enough to boot with systemd, log in and use the network
BASE_PACKAGES = ("systemd-sysv", "udev", "dbus", "kmod", "iproute2", "iputils-ping", "login", "procps", "pciutils")
#: what tests of disks and networks use
TEST_PACKAGES = ("fio", "iperf3", "e2fsprogs", "ethtool")


class RootError(Exception):
    """The root file system cannot be built; one line that says why and what to do."""


class DebianRoot:
    """A Debian root file system; ``build`` makes its image.

    Args:
        kernel: its modules are installed there; its architecture is the packages'. Another one than this machine's
            needs qemu-user-static, as the packages' scripts are run.
        packages: to be installed, beside Debian's essential ones.
        files: guest path -> content (a host path or bytes), added last.
        size_mib: size of the file system; the image file is sparse.
        hostname: the guest's name.
        suite, mirror: where packages come from; the mirror's default is ``$VMM_DEBIAN_MIRROR``, else what this
            machine's apt uses for the suite, else mmdebstrap's own.

    The guest boots with an initramfs of mode "root" (:class:`vmm_testkit.initramfs.Initramfs`);
    :mod:`vmm_testkit.root_files` says what it then does. Raises RootError.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        packages: Sequence[str] = (*BASE_PACKAGES, *TEST_PACKAGES),
        files: Mapping[str, bytes | str | Path] | None = None,
        size_mib: int = 1024,
        hostname: str = "debian",
        suite: str = SUITE,
        mirror: str | None = None,
    ) -> None:
        for word in (*packages, suite, hostname):
            if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", word):
                raise RootError(f"{word!r} is no name of a package, suite or host")
        self._kernel = kernel
        self._packages = sorted(set(packages))
        self._size_mib = size_mib
        self._suite = suite
        self._mirror = mirror or _mirror(suite)
        self._files: dict[str, bytes] = {path: text.encode() for path, text in root_files(hostname, kernel.arch).items()}
        for path, content in (files or {}).items():
            try:
                data = content if isinstance(content, bytes) else Path(content).read_bytes()
            except OSError as error:
                raise RootError(f"{content!s}: {error.strerror}") from None
            self._files[path.strip("/")] = data

    @property
    def key(self) -> str:
        """Names the content: equal for two roots that are built from the same words."""
        parts = (
            "2", self._suite, self._mirror, self._packages, self._size_mib, self._kernel.version, self._kernel.package,
            sorted(self._files.items()), sorted(root_links().items()), removed(self._kernel.arch),
        )  # fmt: skip
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:20]

    @property
    def path(self) -> Path:
        """Where the image is once it is built."""
        return cache_dir("roots") / f"{self.key}.img"

    def build(self) -> Path:
        """Path of the image in the cache (do not write to it: copy it); built if it is not there, some 40 s."""
        path = self.path
        if path.exists():
            return path
        with locked(path.parent / f".{path.name}.lock"):
            if not path.exists():
                self._build(path)
        return path

    def _build(self, path: Path) -> None:
        for program, package in (("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("depmod", "kmod")):
            find(RootError, program, package)
        arch = self._kernel.arch
        if not arch.native and not Path(f"/proc/sys/fs/binfmt_misc/qemu-{arch.name}").exists():
            raise RootError(f"this machine runs no {arch.name} programs: run `apt-get install qemu-user-static arch-test` as root")
        with tempfile.TemporaryDirectory(prefix="vmm-root-") as scratch:
            tar = Path(scratch) / "root.tar"
            tree = Path(scratch) / "tree"
            self._fetch(tar)
            tree.mkdir(mode=0o755)
            # Without root: a user namespace in which all files belong to root. Groups other than root's are lost.
            enter = [] if os.geteuid() == 0 else [find(RootError, "unshare", "util-linux"), "--user", "--map-root-user"]
            owner = ["--same-owner"] if os.geteuid() == 0 else ["--no-same-owner"]
            run(RootError, *enter, "tar", "-C", str(tree), "-xpf", str(tar), *owner, "--exclude=./dev/*")
            tar.unlink()
            self._finish(tree)
            image = path.with_name(f".{path.name}.tmp")
            try:
                image.unlink(missing_ok=True)
                run(RootError, *enter, find(RootError, "mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-L", "root", "-m", "0",
                     "-E", "hash_seed=5eed5eed-5eed-5eed-5eed-5eed5eed5eed,lazy_itable_init=0,lazy_journal_init=1",
                     "-d", str(tree), str(image), f"{self._size_mib}M")  # fmt: skip
                image.chmod(0o444)
                image.rename(path)
            finally:
                image.unlink(missing_ok=True)
                run(RootError, *enter, "rm", "-rf", str(tree))

    def _fetch(self, tar: Path) -> None:
        command = [
            find(RootError, "mmdebstrap", "mmdebstrap"), "--quiet", "--variant=essential", f"--include={','.join(self._packages)}",
            "--format=tar", "--aptopt=APT::Install-Recommends false", "--dpkgopt=force-unsafe-io",
        ]  # fmt: skip
        if not self._kernel.arch.native:
            command += [f"--architectures={self._kernel.arch.debian}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
        command += [f"--aptopt={option}" for option in _proxies()]
        command += [self._suite, str(tar), *([self._mirror] if self._mirror else [])]
        run(RootError, *command, hint=f"is {self._mirror or 'the mirror'} within reach (VMM_DEBIAN_MIRROR)?")

    def _finish(self, tree: Path) -> None:
        """Add and remove what is ours. Symbolic links in the tree are never followed out of it."""
        for name in removed(self._kernel.arch):
            target = tree / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        for name, data in self._files.items():
            _place(tree, name).write_bytes(data)
        for name, target_name in root_links().items():
            _place(tree, name).symlink_to(target_name)
        shadow = tree / "etc/shadow"
        shadow.write_text(re.sub(r"^root:[^:]*:", "root::", shadow.read_text(), count=1, flags=re.MULTILINE))
        modules = tree / "usr/lib/modules" / self._kernel.version
        shutil.copytree(
            self._kernel.modules, modules, ignore=shutil.ignore_patterns("build", "source", "*.bin", "comedi", "sound")
        )
        run(RootError, find(RootError, "depmod", "kmod"), "-b", str(tree / "usr"), self._kernel.version)


def _place(tree: Path, name: str) -> Path:
    """The path in the tree for a new file, its directories made, an older file of that name removed."""
    path = tree
    for part in Path(name).parts[:-1]:
        path = path / part
        if path.is_symlink():  # /lib and its like
            path = path.parent / os.readlink(path)
        if tree not in path.resolve().parents:
            raise RootError(f"{name}: leads out of the root file system, by a symbolic link")
        path.mkdir(mode=0o755, exist_ok=True)
    path /= Path(name).name
    path.unlink(missing_ok=True)
    return path


def _mirror(suite: str) -> str:
    """The suite's mirror; "" leaves the choice to mmdebstrap."""
    try:
        return debian_mirror(RootError, suite)
    except RootError:
        return ""


def _proxies() -> list[str]:
    """This machine's apt settings for how to reach a mirror, which mmdebstrap does not look at."""
    try:
        done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    except OSError:
        return []
    return [
        line.rstrip(";")
        for line in done.stdout.splitlines()
        if re.match(r"Acquire::https?::(Proxy|CaInfo|CaPath|Verify)[^ ]* \"[^\"]+\"", line)
    ]


def debian_root(kernel: Kernel, *, extra_packages: Sequence[str] = ()) -> DebianRoot:
    """The root file system that the kit's own fixtures use: systemd, network, fio, iperf3, e2fsprogs, ethtool."""
    return DebianRoot(kernel, packages=(*BASE_PACKAGES, *TEST_PACKAGES, *extra_packages))
