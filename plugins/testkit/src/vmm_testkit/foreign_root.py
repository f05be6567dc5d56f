# SPDX-License-Identifier: Apache-2.0
"""A Debian of another architecture to run programs in, for the lab: unpacked packages, none of whose scripts has run.

It is no system to boot: no systemd, root is its only user. It needs no root to make, and no emulator.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from vmm_testkit.apt import foreign_apt
from vmm_testkit.arch import SUITE, Arch
from vmm_testkit.cache import cache_dir, keep_newest, make_dir
from vmm_testkit.host import run
from vmm_testkit.lab_session import LabMissing
from vmm_testkit.qemu import PROGRAMS

#: what the jobs of a lab use; the Python headers are for this machine's cross compiler
PACKAGES = (
    "libc-bin", "bash", "busybox-static", "coreutils", "dash", "diffutils", "findutils", "grep", "gzip", "hostname", "mawk",
    "sed", "tar", "util-linux", "mount", "procps", "kmod", "ca-certificates",
    "python3", "libpython3.11-dev", "gcc",
    "e2fsprogs", "ethtool", "iperf3", "iproute2", "iputils-ping", "lz4", "passt", "pciutils", "zstd", "fio",
)  # fmt: skip
#: a VMM to compare with, and firmware
_MORE = {"aarch64": (PROGRAMS["aarch64"], "qemu-efi-aarch64"), "x86_64": (PROGRAMS["x86_64"], "ovmf")}
#: the version of Debian's Python there
PYTHON = "3.11"
#: removed: nobody reads it there
_REMOVED = (
    "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/perl", "usr/share/perl5",
    "usr/share/AAVMF/*.ms.*", "usr/share/AAVMF/*.snakeoil.*",
)  # fmt: skip
#: what the packages' scripts would have made
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntty:x:5:\nkvm:x:104:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/hostname": "lab\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
_LINKS = {"usr/bin/awk": "mawk", "etc/mtab": "/proc/self/mounts"}


def foreign_root(arch: Arch) -> Path:
    """The tree in the cache; made if it is not there (a minute, and a network). Raises LabMissing."""
    packages = (*PACKAGES, *_MORE[arch.name])
    key = hashlib.sha256(repr(("4", SUITE, packages, _REMOVED, _FILES, _LINKS)).encode()).hexdigest()[:16]

    def fill(tree: Path) -> None:
        foreign_apt(LabMissing, arch).unpack(tree, packages)
        # Debian has these as links; the packages still have files in the directories.
        for name in ("bin", "sbin", "lib"):
            run(LabMissing, "cp", "-alf", f"{tree / name}/.", str(tree / "usr" / name))
            shutil.rmtree(tree / name)
            (tree / name).symlink_to(f"usr/{name}")
        for path in (path for name in _REMOVED for path in tree.glob(name)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name, text in _FILES.items():
            (tree / name).write_text(text)
        for name, target in _LINKS.items():
            if not (tree / name).is_symlink():
                (tree / name).symlink_to(target)
        compile_python(tree / f"usr/lib/python{PYTHON}")

    return keep_newest(make_dir(cache_dir("lab") / f"{SUITE}-{arch.debian}-{key}", fill), f"{SUITE}-{arch.debian}-*")


def compile_python(tree: Path) -> None:
    """Compile the modules there, which costs much on an emulated CPU; only a Python of that version can."""
    found = [sys.executable] if sys.version_info[:2] == tuple(map(int, PYTHON.split("."))) else []
    if python := next(iter(found), shutil.which(f"python{PYTHON}")):
        command = [python, "-m", "compileall", "-q", "-j2", "--invalidation-mode", "unchecked-hash", str(tree)]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # what cannot be compiled is no loss
