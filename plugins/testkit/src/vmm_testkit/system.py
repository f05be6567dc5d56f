# SPDX-License-Identifier: Apache-2.0
"""A guest that is a whole Debian: systemd on a root file system of its own disk.

``python -m vmm_testkit.system [ARCH]`` builds that root file system; in the lab, which has no network, it must be there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vmm_testkit.arch import ArchError, arch_of
from vmm_testkit.guest import DebianGuest
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel, KernelError, debian_kernel
from vmm_testkit.lab import drive, in_lab
from vmm_testkit.roots import DebianRoot, RootError, debian_root

#: loaded before the root file system is there; the rest comes by udev
MODULES = ("virtio_pci", "virtio_blk", "virtio_console")
#: disks of a lab that hold the root file system, each for one test to write to
LAB_ROOTS = 4


def root_initramfs(kernel: Kernel) -> Path:
    """The initramfs that goes on with the root file system of a disk."""
    return Initramfs(kernel, modules=MODULES, mode="root").build()


class DebianSystem(DebianGuest):
    """A ``DebianGuest`` that runs systemd. ``run``, ``reboot`` and ``poweroff`` go through systemd, too.

    ``root``: the disk. Unless ``disk`` is false, the VMM gets ``--disk path=ROOT`` with ``disk_options``
    (``"num_queues=4"``) before ``args``, in whose words ``{root}`` is replaced. Other keywords: ``DebianGuest``.
    """

    def __init__(
        self,
        kernel: Kernel,
        root: Path,
        *,
        disk: bool = True,
        disk_options: str = "",
        args: Sequence[str] = (),
        cmdline: str = "",
        boot_timeout: float = 180.0,
        **keywords: Any,
    ) -> None:
        words = [word.replace("{root}", str(root)) for word in args]
        if disk:
            words = ["--disk", f"path={root}" + (f",{disk_options}" if disk_options else ""), *words]
        if "argv" in keywords:
            keywords["argv"] = [word.replace("{root}", str(root)) for word in keywords["argv"]]
        keywords.setdefault("memory", "size=768M")
        keywords.setdefault("initramfs", root_initramfs(kernel))
        super().__init__(
            kernel,
            args=words,
            cmdline=f"reboot=a root=/dev/vda rw {cmdline}".strip(),
            boot_timeout=boot_timeout,
            **keywords,
        )

    def wait_online(self, timeout: float = 60.0) -> None:
        """Waits until networkd has configured the network devices: "ready" may come before that, as in any Debian."""
        self.check(f"/lib/systemd/systemd-networkd-wait-online --timeout={timeout:g}", timeout + 30)


def lab_drives(kernel: Kernel) -> dict[str, Path]:
    """Drives for a :class:`~vmm_testkit.lab.Lab` in which ``borrowed_root`` is used; none if the root is not built."""
    root = debian_root(kernel)
    return {_name(root, number): root.path for number in range(LAB_ROOTS)} if root.path.exists() else {}


def _name(root: DebianRoot, number: int) -> str:
    return f"{root.key[:16]}-{number}"


@contextlib.contextmanager
def borrowed_root(kernel: Kernel, folder: Path) -> Iterator[Path]:
    """A root file system to write to: a disk of the lab that nobody has used, else a copy in ``folder``.

    The copy shares its blocks with the original where the file system can do that, and is removed at the end.
    Raises RootError.
    """
    root = debian_root(kernel)
    if in_lab():
        for number in range(LAB_ROOTS):
            node = drive(_name(root, number))
            with contextlib.suppress(FileExistsError):
                if node is not None:
                    os.close(os.open(f"/run/lab/used-{node.name}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                    yield node
                    return
        if not root.path.exists():
            raise RootError(f"{root.path} is not there, and the lab has no network to fetch packages by")
    image = root.build()
    fd, name = tempfile.mkstemp(prefix="root-", suffix=".img", dir=folder)
    os.close(fd)
    try:
        copy = ["cp", "--reflink=auto", "--sparse=always", str(image), name]
        done = subprocess.run(copy, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RootError(done.stderr.strip())
        os.chmod(name, 0o600)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def main() -> int:
    """Build the root file system of ``debian_system``, of the architecture that is named or this machine's."""
    try:
        print(debian_root(debian_kernel(arch_of(*sys.argv[1:2]).flavours[0])).build())
    except (RootError, KernelError, ArchError) as error:
        print(f"vmm-testkit: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
