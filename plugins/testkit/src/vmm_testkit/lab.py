# SPDX-License-Identifier: Apache-2.0
"""The lab: a complete KVM on any machine.

QEMU emulates a host CPU with virtualization (TCG), a stock Debian kernel boots on it, and a command runs there
as if it ran here: same root file system, same directory, its output and its exit status handed through.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from vmm_testkit import lab_init
from vmm_testkit.arch import SUITE, arch_of
from vmm_testkit.cache import cache_dir
from vmm_testkit.cpio import CpioWriter
from vmm_testkit.foreign_packages import foreign_packages
from vmm_testkit.foreign_root import foreign_root
from vmm_testkit.host import debian_mirror
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel, debian_kernel
from vmm_testkit.lab_session import LabError, LabMissing, LabStalled, LabTimeout, Session, Stream
from vmm_testkit.process import kill_group, spawn
from vmm_testkit.qemu import Qemu, lab_qemu

__all__ = ["Lab", "LabError", "LabMissing", "LabStalled", "LabTimeout", "drive", "in_lab"]

#: Variables handed to the job as they are (and all that begin with VMM_ or LC_).
PASSED_ENV = (
    "PATH", "HOME", "USER", "TERM", "LANG", "VIRTUAL_ENV", "XDG_CACHE_HOME", "PYTHONPATH", "PYTHONHASHSEED",
    "PYTHONUNBUFFERED", "PYTEST_ADDOPTS", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "SOURCE_DATE_EPOCH", "CC",
)  # fmt: skip
#: For jobs on another architecture: what names this machine's programs is left out.
_HOST_ENV = ("PATH", "VIRTUAL_ENV", "PYTHONPATH", "CC")
_FOREIGN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: This machine's directories that a job on another architecture does not see; a Debian's are there.
_SYSTEM = {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "lost+found", "proc", "run", "sbin", "sys", "usr", "var"}


def in_lab() -> bool:
    """Whether this process runs in the lab."""
    return os.environ.get("VMM_IN_LAB") == "1"


def drive(name: str) -> Path | None:
    """In the lab: the device node of the drive ``name`` that the lab was given; None when it has none."""
    for serial in Path("/sys/block").glob("vd*/serial"):
        if serial.read_text().strip() == name:
            return Path("/dev", serial.parent.name)
    return None


class Lab:
    """One kind of emulated host; each ``run`` starts a fresh one.

    Args:
        memory_mib: RAM of the emulated host, MiB.
        cpus: its CPUs (one with ``icount``). Several at a time lose guests now and then (docs/lab.md).
        arch: "x86_64" or "aarch64"; default: this machine's. The job of another one sees a Debian of that one
            instead of this machine's system directories, and this repository's packages built for it.
        icount: let its clock count instructions, so that measurements repeat to about 0.5 %; slower, and about
            one run in three stops advancing: set ``stall_timeout`` and try again on LabStalled.
        kernel: its kernel; default Debian's "standard" flavour (the cloud flavour has no 9p).
        qemu_args: more arguments for QEMU.
        intel_iommu: give it an IOMMU, for VFIO.
        out: a directory that the job may write to; whatever else it writes is lost.
        tty: connect the job to our terminal (needs one).
        stall_timeout: seconds of silence after which the lab counts as stalled; None: never.
        drives: files that the lab has as disks, by name (at most 20 characters; :func:`drive` finds them in
            there). What is written to one is lost; the same file may be given under several names.
    """

    def __init__(
        self,
        *,
        memory_mib: int = 4096,
        cpus: int = 1,
        arch: str = "",
        icount: bool = False,
        kernel: Kernel | None = None,
        qemu_args: Sequence[str] = (),
        intel_iommu: bool = False,
        out: Path | None = None,
        tty: bool = False,
        stall_timeout: float | None = None,
        drives: Mapping[str, Path] | None = None,
    ) -> None:
        self.memory_mib = memory_mib
        self.cpus = 1 if icount else cpus
        self.arch = arch_of(arch)
        self.icount = icount
        self.qemu_args = list(qemu_args)
        self.intel_iommu = intel_iommu
        self.out = out.resolve() if out else None
        self.tty = tty
        self.stall_timeout = stall_timeout
        self.drives = {name: path.resolve() for name, path in (drives or {}).items()}
        self._kernel = kernel

    @property
    def python(self) -> str:
        """The Python for jobs: this one, or of another architecture that with the packages built for it."""
        return sys.executable if self.arch.native else str(foreign_packages(self.arch) / "bin/python")

    def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 600.0,
        stdout: BinaryIO | None = None,
        stderr: BinaryIO | None = None,
    ) -> int:
        """Run ``argv`` in the lab and return its exit status (128 + N for signal N).

        ``env`` is added to the variables that are passed anyway (``PASSED_ENV``). ``timeout`` (seconds) covers
        everything from here to the job's end. Output goes to ``stdout`` and ``stderr`` as it comes (default:
        our own). Raises LabTimeout, LabStalled, LabError (LabMissing where it cannot start), KernelError or InitramfsError while
        preparing.
        QEMU is gone when this returns or raises, and dies with us.
        """
        if not argv:
            raise LabMissing("no command to run in the lab")
        if self.out and not self.out.is_dir():
            raise LabMissing(f"{self.out}: no such directory to share")
        if self.intel_iommu and self.arch.name != "x86_64":
            raise LabMissing(f"the lab has no IOMMU for {self.arch.name}")
        for name, path in self.drives.items():
            if not re.fullmatch(r"[A-Za-z0-9._-]{1,20}", name):
                raise LabMissing(f"drive {name!r}: a name has 1 to 20 letters, digits, dots, dashes, underscores")
            if not path.is_file():
                raise LabMissing(f"drive {name}: {path}: no such file")
        qemu = lab_qemu(self.arch.name, counted=self.icount)
        if qemu.note:
            sys.stderr.write(f"vmm lab: {qemu.note}\n")
            sys.stderr.flush()
        kernel = self._kernel or debian_kernel(self.arch.flavours[1])
        nonce = secrets.token_hex(16)
        streams = [Stream(stdout or _raw(1), nonce), Stream(stderr or _raw(2), nonce), Stream(None, nonce)]
        ends = [socket.socketpair() for _ in ("console", *lab_init.PORTS, *(["tty"] if self.tty else []))]
        initrd = self._initrd(kernel, argv, str(cwd or Path.cwd()), self._env(env), nonce)
        fds = [theirs.fileno() for _, theirs in ends]
        command = self._command(qemu, kernel, initrd, fds)
        process: subprocess.Popen[bytes] | None = None
        undo = _sigterm_raises()
        try:
            process = spawn(command, stdin=subprocess.DEVNULL, env=os.environ | qemu.env, fds=[initrd, *fds])
            for _, theirs in ends:
                theirs.close()
            ours = [mine for mine, _ in ends]
            return Session(
                process, streams, ours, nonce, time.monotonic() + timeout, self.stall_timeout
            ).run()
        finally:
            if process is not None:
                kill_group(process)
                for pipe in (process.stdout, process.stderr):
                    assert pipe is not None
                    pipe.close()
            for pair in ends:
                for end in pair:
                    end.close()
            os.close(initrd)
            undo()

    def _env(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        env = {
            name: value
            for name, value in os.environ.items()
            if name in PASSED_ENV or name.startswith(("VMM_", "LC_"))
        }
        if not self.arch.native:
            env = {name: value for name, value in env.items() if name not in _HOST_ENV}
            packages = foreign_packages(self.arch)
            # Safe path: the current directory may have packages of this machine's architecture.
            env |= {"VIRTUAL_ENV": str(packages), "PATH": f"{packages}/bin:{_FOREIGN_PATH}", "PYTHONSAFEPATH": "1"}
            # A root file system in the cache is found by where it came from, which the apt in there does not know.
            with contextlib.suppress(LabMissing):
                env["VMM_DEBIAN_MIRROR"] = debian_mirror(LabMissing, SUITE)
        # /run is RAM there, and faster than the overlay over 9p.
        return {**env, "TMPDIR": "/run/tmp", "VMM_IN_LAB": "1", **(extra or {})}

    def _initrd(
        self, kernel: Kernel, argv: Sequence[str], cwd: str, env: Mapping[str, str], nonce: str
    ) -> int:
        """A memfd with the cached initramfs and this run's scripts: nothing to clean up, however we end."""
        base = Initramfs(
            kernel,
            modules=lab_init.MODULES,
            optional_modules=lab_init.OPTIONAL_MODULES,
            init=lab_init.STAGE1,
            stamp=False,
        ).build()
        terminal = "/dev/hvc0" if self.tty else ""
        shared = str(self.out) if self.out else None
        script, job = lab_init.stage2(
            argv,
            cwd,
            env,
            nonce=nonce,
            shared=shared,
            modules=str(kernel.modules),
            tty=terminal,
            size=_size(),
            arch=self.arch,
            outer=[] if self.arch.native else _outer(cwd),
            beats=0 if self.icount else self.cpus,  # there they would disturb what is counted
        )
        buffer = io.BytesIO()
        archive = CpioWriter(buffer)
        archive.file("lab-stage2", script.encode(), 0o755)
        archive.file("lab-job", job.encode(errors="surrogateescape"), 0o755)
        archive.close()
        fd = os.memfd_create("lab-initrd", os.MFD_CLOEXEC)
        with open(fd, "wb", closefd=False) as file:
            file.write(base.read_bytes())
            file.write(buffer.getvalue())
        return fd

    def _command(self, qemu: Qemu, kernel: Kernel, initrd: int, fds: Sequence[int]) -> list[str]:
        words = self.arch.words + (" intel_iommu=on" if self.intel_iommu else "")
        accel = ["-accel", "tcg,thread=multi"]
        if self.icount:
            accel = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off,align=off"]
        command = [*qemu.command, *accel, *self.arch.machine, "-smp", str(self.cpus)]
        command += [
            "-m",
            str(self.memory_mib),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]
        # x86-64's is unpacked here (and entered by PVH): unpacking XZ on an emulated CPU costs a second.
        image = kernel.vmlinux() if self.arch.name == "x86_64" else kernel.vmlinuz
        command += ["-kernel", str(image), "-initrd", f"/proc/self/fd/{initrd}", "-append", words]
        shares = [("root", Path("/"), ",readonly=on")]
        if not self.arch.native:
            shares = [("root", foreign_root(self.arch), ",readonly=on"), ("outer", Path("/"), ",readonly=on")]
        if self.out:
            shares += [("out", self.out, "")]
        for tag, path, mode in shares:
            share = f"local,id={tag},path={_comma(path)},security_model=none{mode},multidevs=remap"
            command += ["-fsdev", share, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        command += ["-chardev", f"socket,id=console,fd={fds[0]}", "-serial", "chardev:console"]
        command += ["-device", "virtio-serial-pci"]
        for number, (name, fd) in enumerate(zip(lab_init.PORTS, fds[1:4], strict=True), start=1):
            command += ["-chardev", f"socket,id={name},fd={fd}"]
            command += ["-device", f"virtserialport,nr={number},chardev={name},name=vmm.{name}"]
        if self.tty:
            command += ["-chardev", f"socket,id=tty,fd={fds[4]}", "-device", "virtconsole,nr=0,chardev=tty"]
        for number, (name, file) in enumerate(self.drives.items()):
            # A snapshot: QEMU keeps what is written in a temporary file without a name, in TMPDIR or /var/tmp.
            command += ["-drive", f"file={_comma(file)},if=none,id=drive{number},format=raw,snapshot=on"]
            command += ["-device", f"virtio-blk-pci,drive=drive{number},serial={name},disable-legacy=on"]
        if self.intel_iommu:
            command += ["-device", "intel-iommu,intremap=on,caching-mode=on"]
        return command + self.qemu_args


def _outer(cwd: str) -> list[str]:
    """This machine's directories for a job on another architecture: the current one, the cache, all but the system."""
    found = [f"/{name}" for name in sorted(os.listdir("/")) if name not in _SYSTEM and os.path.isdir(f"/{name}")]
    for path in (os.path.realpath(cwd), str(cache_dir("lab").parent.resolve())):
        if path.split("/")[1] in _SYSTEM:
            found.append(path)
    return found


def _comma(path: Path) -> str:
    """The path in a QEMU option: a comma is written twice."""
    return str(path).replace(",", ",,")


def _raw(fd: int) -> BinaryIO:
    (sys.stdout if fd == 1 else sys.stderr).flush()
    return open(fd, "wb", buffering=0, closefd=False)


def _size() -> tuple[int, int]:
    size = shutil.get_terminal_size()
    return size.lines, size.columns


def _sigterm_raises() -> Callable[[], None]:
    """Turn SIGTERM into SystemExit, so that ``finally`` runs; returns what undoes it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        return lambda: None

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, on_signal)
    return lambda: (signal.signal(signal.SIGTERM, signal.SIG_DFL), None)[1]
