# SPDX-License-Identifier: Apache-2.0
"""The lab: a complete KVM on any machine.

QEMU emulates a host CPU with virtualization (TCG), a stock Debian kernel boots on it, and a command runs there
as if it ran here: same root file system, same directory, its output and its exit status handed through.
"""

from __future__ import annotations

import io
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from vmm_testkit import lab_init
from vmm_testkit.cpio import CpioWriter
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel, debian_kernel
from vmm_testkit.process import kill_group, spawn

QEMU = "qemu-system-x86_64"
#: Variables handed to the job as they are (and all that begin with VMM_ or LC_).
PASSED_ENV = (
    "PATH", "HOME", "USER", "TERM", "LANG", "VIRTUAL_ENV", "XDG_CACHE_HOME", "PYTHONPATH", "PYTHONHASHSEED",
    "PYTHONUNBUFFERED", "PYTEST_ADDOPTS", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "SOURCE_DATE_EPOCH", "CC",
)  # fmt: skip
_CMDLINE = "console=ttyS0 quiet reboot=t panic=-1 mitigations=off random.trust_cpu=on"


class LabError(Exception):
    """The lab did not start or broke; the first line says why."""


class LabTimeout(LabError):
    """The job took longer than allowed; the lab was killed."""


class LabStalled(LabError):
    """The lab printed nothing for too long; it was killed. Worth another try (see ``icount``)."""


def in_lab() -> bool:
    """Whether this process runs in the lab."""
    return os.environ.get("VMM_IN_LAB") == "1"


class Lab:
    """One kind of emulated host; each ``run`` starts a fresh one.

    Args:
        memory_mib: RAM of the emulated host, MiB.
        cpus: its CPUs (one with ``icount``).
        icount: let its clock count instructions, so that measurements repeat to about 0.5 %; slower, and about
            one run in three stops advancing: set ``stall_timeout`` and try again on LabStalled.
        kernel: its kernel; default Debian's ``amd64`` flavour (the cloud flavour has no 9p).
        qemu_args: more arguments for QEMU.
        intel_iommu: give it an IOMMU, for VFIO.
        out: a directory that the job may write to; whatever else it writes is lost.
        tty: connect the job to our terminal (needs one).
        stall_timeout: seconds of silence after which the lab counts as stalled; None: never.
    """

    def __init__(
        self,
        *,
        memory_mib: int = 4096,
        cpus: int = 2,
        icount: bool = False,
        kernel: Kernel | None = None,
        qemu_args: Sequence[str] = (),
        intel_iommu: bool = False,
        out: Path | None = None,
        tty: bool = False,
        stall_timeout: float | None = None,
    ) -> None:
        self.memory_mib = memory_mib
        self.cpus = 1 if icount else cpus
        self.icount = icount
        self.qemu_args = list(qemu_args)
        self.intel_iommu = intel_iommu
        self.out = out.resolve() if out else None
        self.tty = tty
        self.stall_timeout = stall_timeout
        self._kernel = kernel

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
        our own). Raises LabTimeout, LabStalled, LabError; KernelError or InitramfsError while preparing.
        QEMU is gone when this returns or raises, and dies with us.
        """
        if not argv:
            raise LabError("no command to run in the lab")
        qemu = shutil.which(QEMU)
        if qemu is None:
            raise LabError(f"{QEMU} is missing: run `apt-get install qemu-system-x86` as root")
        if self.out and not self.out.is_dir():
            raise LabError(f"{self.out}: no such directory to share")
        kernel = self._kernel or debian_kernel("amd64")
        nonce = secrets.token_hex(16)
        streams = [_Stream(stdout or _raw(1), nonce), _Stream(stderr or _raw(2), nonce), _Stream(None, nonce)]
        ends = [socket.socketpair() for _ in ("console", *lab_init.PORTS, *(["tty"] if self.tty else []))]
        initrd = self._initrd(kernel, argv, str(cwd or Path.cwd()), self._env(env), nonce)
        fds = [theirs.fileno() for _, theirs in ends]
        command = self._command(qemu, kernel, initrd, fds)
        process: subprocess.Popen[bytes] | None = None
        undo = _sigterm_raises()
        try:
            process = spawn(command, stdin=subprocess.DEVNULL, fds=[initrd, *fds])
            for _, theirs in ends:
                theirs.close()
            ours = [mine for mine, _ in ends]
            return _Session(
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

    def _command(self, qemu: str, kernel: Kernel, initrd: int, fds: Sequence[int]) -> list[str]:
        words = _CMDLINE + (" intel_iommu=on" if self.intel_iommu else "")
        accel = ["-accel", "tcg,thread=multi"]
        if self.icount:
            accel = ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off,align=off"]
        command = [qemu, *accel, "-M", "q35,vmport=off", "-cpu", "max,svm=on", "-smp", str(self.cpus)]
        command += [
            "-m",
            str(self.memory_mib),
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]
        # The unpacked kernel (entered by PVH): unpacking XZ on an emulated CPU costs a second.
        command += ["-kernel", str(kernel.vmlinux()), "-initrd", f"/proc/self/fd/{initrd}", "-append", words]
        command += ["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"]
        command += ["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]
        if self.out:
            # A comma in a QEMU option is written twice.
            path = str(self.out).replace(",", ",,")
            command += ["-fsdev", f"local,id=out,path={path},security_model=none,multidevs=remap"]
            command += ["-device", "virtio-9p-pci,fsdev=out,mount_tag=out"]
        command += ["-chardev", f"socket,id=console,fd={fds[0]}", "-serial", "chardev:console"]
        command += ["-device", "virtio-serial-pci"]
        for number, (name, fd) in enumerate(zip(lab_init.PORTS, fds[1:4], strict=True), start=1):
            command += ["-chardev", f"socket,id={name},fd={fd}"]
            command += ["-device", f"virtserialport,nr={number},chardev={name},name=vmm.{name}"]
        if self.tty:
            command += ["-chardev", f"socket,id=tty,fd={fds[4]}", "-device", "virtconsole,nr=0,chardev=tty"]
        if self.intel_iommu:
            command += ["-device", "intel-iommu,intremap=on,caching-mode=on"]
        return command + self.qemu_args


class _Stream:
    """One of the job's streams: passes bytes on until its end mark, which may arrive in pieces."""

    def __init__(self, sink: BinaryIO | None, nonce: str) -> None:
        self._sink = sink
        self._mark = nonce.encode()
        self._held = b""
        self.kept = b""
        self.done = False

    def feed(self, data: bytes) -> None:
        data = self._held + data
        self._held = b""
        if self._sink is None:
            self.kept += data
            return
        found = data.find(self._mark)
        if found >= 0:
            self.done = True
            data = data[:found]
        else:
            for length in range(min(len(self._mark) - 1, len(data)), 0, -1):
                if data.endswith(self._mark[:length]):
                    self._held = data[-length:]
                    data = data[:-length]
                    break
        if data:
            self._sink.write(data)
            self._sink.flush()


class _Session:
    """The talk with one running lab, from QEMU's start to the job's end."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        streams: Sequence[_Stream],
        ends: Sequence[socket.socket],
        nonce: str,
        deadline: float,
        stall: float | None,
    ) -> None:
        self._process = process
        self._streams = streams
        self._nonce = nonce
        self._deadline = deadline
        self._stall = stall
        self._console = b""
        self._tty = ends[4] if len(ends) > 4 else None
        self._escape = False
        self._selector = selectors.DefaultSelector()
        self._add(ends[0], self._on_console)
        for stream, end in zip(streams, ends[1:4], strict=True):
            self._add(end, stream.feed)
        if self._tty is not None:
            self._add(self._tty, lambda data: _write_all(1, data))

    def _add(self, end: socket.socket, on_data: Callable[[bytes], None]) -> None:
        self._selector.register(end, selectors.EVENT_READ, on_data)

    def _on_console(self, data: bytes) -> None:
        self._console = (self._console + data)[-65536:]

    def run(self) -> int:
        with self._selector:
            if self._tty is None:
                return self._loop()
            saved = termios.tcgetattr(0)
            self._selector.register(0, selectors.EVENT_READ, self._on_key)
            try:
                tty.setraw(0)
                return self._loop()
            finally:
                termios.tcsetattr(0, termios.TCSADRAIN, saved)

    def _on_key(self, data: bytes) -> None:
        assert self._tty is not None
        if self._escape and data[:1] == b"x":
            raise LabError("left with Ctrl-A x")
        self._escape = data.endswith(b"\x01")
        self._tty.sendall(data)

    def _loop(self) -> int:
        last = time.monotonic()
        while True:
            status = self._status()
            if status is not None:
                return status
            until = self._deadline if self._stall is None else min(self._deadline, last + self._stall)
            events = self._selector.select(max(0.0, until - time.monotonic()))
            if events:
                last = time.monotonic()
            elif time.monotonic() >= self._deadline:
                raise LabTimeout("the lab's time is over" + self._tail())
            elif self._stall is not None and time.monotonic() - last >= self._stall:
                raise LabStalled(f"the lab printed nothing for {self._stall:g} s" + self._tail())
            for key, _ in events:
                data = os.read(key.fd, 65536)
                if data:
                    key.data(data)
                    continue
                self._selector.unregister(key.fileobj)
                if key.data == self._on_console:
                    self._drain()
                    status = self._status()
                    if status is not None:
                        return status
                    raise LabError(self._death() + self._tail())

    def _drain(self) -> None:
        """Take what is still in the sockets of a QEMU that has ended."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                while data := os.read(key.fd, 65536):
                    key.data(data)

    def _status(self) -> int | None:
        """The job's exit status, once it and all output are here."""
        words = self._streams[2].kept.split()
        if len(words) < 2 or not self._streams[2].kept.endswith(b"\n"):
            return None
        if words[0] != self._nonce.encode() or not words[1].isdigit():
            raise LabError(f"the lab failed: {b' '.join(words[1:]).decode(errors='replace')}" + self._tail())
        if not (self._streams[0].done and self._streams[1].done):
            return None
        return int(words[1])

    def _death(self) -> str:
        code = self._process.wait()
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return f"QEMU ended (status {code}) before the job did" + (f": {said[-1]}" if said else "")

    def _tail(self) -> str:
        lines = self._console.decode(errors="replace").replace("\r", "").split("\n")
        tail = [line for line in lines if line.strip()][-15:]
        return "\n  the lab's console: " + "\n    ".join(["", *tail]) if tail else ""


def _raw(fd: int) -> BinaryIO:
    (sys.stdout if fd == 1 else sys.stderr).flush()
    return open(fd, "wb", buffering=0, closefd=False)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


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
