# SPDX-License-Identifier: Apache-2.0
"""A Debian guest that runs commands: a VMM process whose serial port is the command loop of ``guest_init``."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import secrets
import selectors
import shlex
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from vmm_testkit.arch import arch_of
from vmm_testkit.kernels import Kernel
from vmm_testkit.process import kill_group, spawn

_LINE = 1000  # a terminal in canonical mode takes lines of up to 4095 bytes
_TAIL = 4000


class GuestError(AssertionError):
    """Something about the guest was not as it should be; the text ends with the console's last lines."""


class GuestTimeout(GuestError):
    """The guest did not answer in time."""


class GuestDied(GuestError):
    """The VMM process ended, or closed the guest's console, while an answer was awaited."""


@dataclass(frozen=True)
class Result:
    """What a command in the guest did: exit status, and standard output and error together."""

    status: int
    output: str


def default_vmm() -> list[str]:
    """``vmm run`` of the environment that this Python belongs to."""
    return [str(Path(sys.executable).parent / "vmm"), "run"]


class DebianGuest:
    """One VMM process with a Debian kernel and an ``Initramfs(mode="loop")`` in it.

    Args:
        kernel: a Kernel, or a file (bzImage or vmlinux).
        initramfs: archive made by ``Initramfs`` in mode "loop".
        memory, cpus: values of ``--memory`` and ``--cpus``.
        cmdline: words for the kernel, after ``console=`` and the kit's own.
        args: more arguments for the VMM.
        vmm: how to call the VMM, default ``[<directory of this Python>/vmm, run]``.
        argv: the whole command line instead; ``{kernel}``, ``{initramfs}`` and ``{cmdline}`` in its words are
            replaced. Lets the same guest run under another VMM. The serial port must be stdin and stdout.
        env: environment of the VMM process (default: ours).
        boot_timeout: seconds from start to the command loop.

    Use it as a context manager: however the block ends, the VMM is killed and reaped.  One thread at a time.
    """

    def __init__(
        self,
        kernel: Kernel | Path | str,
        initramfs: Path | str,
        *,
        memory: str = "size=512M",
        cpus: str = "boot=1",
        cmdline: str = "",
        args: Sequence[str] = (),
        vmm: Sequence[str] | None = None,
        argv: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        boot_timeout: float = 60.0,
    ) -> None:
        self._token = "vk" + secrets.token_hex(8)
        self.boot_timeout = boot_timeout
        self._env = env
        image = str(kernel.vmlinuz if isinstance(kernel, Kernel) else kernel)
        arch = kernel.arch if isinstance(kernel, Kernel) else arch_of()
        words = f"{arch.guest_words} panic=-1 testkit={self._token} {cmdline}".strip()
        if argv is not None:
            fill = {"{kernel}": image, "{initramfs}": str(initramfs), "{cmdline}": words}
            self.argv = [
                re.sub(r"\{(kernel|initramfs|cmdline)\}", lambda m: fill[m[0]], word) for word in argv
            ]
        else:
            self.argv = [*(vmm or default_vmm()), "--kernel", image, "--initramfs", str(initramfs)]
            self.argv += ["--cmdline", words, "--serial", "tty", "--memory", memory, "--cpus", cpus, *args]
        self._process: subprocess.Popen[bytes] | None = None
        self._selector = selectors.DefaultSelector()
        self._console = bytearray()
        self._stderr = bytearray()
        self._read = 0  # how far into the console answers have been taken
        self._next_id = 1
        self._open = 0
        self.boots = 0

    # --- the process ------------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The VMM process."""
        if self._process is None:
            raise GuestError("the guest has not been started")
        return self._process

    @property
    def pid(self) -> int:
        """Process id of the VMM."""
        return self.process.pid

    @property
    def console(self) -> str:
        """Everything that the guest has written to its serial port."""
        return self._console.decode(errors="replace").replace("\r\n", "\n")

    @property
    def stderr(self) -> str:
        """What the VMM itself has said."""
        return self._stderr.decode(errors="replace")

    def start(self, *, wait: bool = True) -> DebianGuest:
        """Start the VMM and, unless ``wait`` is false, wait until the guest takes commands."""
        if self._process is not None:
            raise GuestError("the guest was started before; make another DebianGuest")
        self._process = spawn(self.argv, env=self._env)
        for stream, store in ((self._process.stdout, self._console), (self._process.stderr, self._stderr)):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            self._selector.register(stream, selectors.EVENT_READ, store)
            self._open += 1
        if wait:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise
        return self

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait for the next start of the command loop (the first boot, or one after a reboot)."""
        self._await(rf"{self._token} ready\r?\n", timeout or self.boot_timeout, "the guest's command loop")
        self.boots += 1

    def wait(self, timeout: float = 30.0) -> int:
        """Wait until the VMM has ended; its exit code (-N for signal N)."""
        deadline = time.monotonic() + timeout
        while self._open:
            if not self._pump(deadline):
                raise GuestTimeout(f"the VMM has not ended after {timeout:g} s" + self._threads() + self._tail())
        try:
            return self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise GuestTimeout(f"the VMM closed its output but has not ended after {timeout:g} s") from None

    def kill(self) -> None:
        """Kill and reap the VMM; what it wrote stays readable. Harmless when it has ended."""
        if self._process is None:
            return
        kill_group(self._process)
        while self._open and self._pump(time.monotonic() + 1):
            pass
        self._selector.close()
        self._open = 0
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass

    def __enter__(self) -> Self:
        if self._process is None:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # --- talking to it ----------------------------------------------------------------------------------

    def run(self, command: str, timeout: float = 60.0) -> Result:
        """Run ``sh -c``-like ``command`` in the guest (its stdin is /dev/null, its directory /root).

        Raises GuestTimeout, after which the guest still works on that command and takes no other; GuestDied.
        """
        number = self.begin(command)
        deadline = time.monotonic() + timeout
        token = self._token
        # The host asks again when kernel messages have torn the answer.
        for _ in range(5):
            pattern = rf"(?s){token} begin {number}\r?\n(.*?)\r?\n{token} end {number} (\d+)\r?\n"
            found = self._await(pattern, deadline - time.monotonic(), f"the end of `{command}`")
            output = _decode(found[1])
            if output is not None:
                return Result(int(found[2]), output)
            self.send(f"{number} again\n".encode())
        raise GuestError(f"the output of `{command}` arrived damaged five times" + self._tail())

    def begin(self, command: str) -> int:
        """Start a command without waiting for its end, as it may be the guest's own; the command's number."""
        number = self._next_id
        self._next_id += 1
        code = base64.b64encode(command.encode()).decode()
        lines = [code[at : at + _LINE] for at in range(0, len(code), _LINE)]
        self.send("".join(f"{number} {line}\n" for line in [*lines, "run"]).encode())
        return number

    def check(self, command: str, timeout: float = 60.0) -> str:
        """Like ``run``, but the command must succeed; returns its output."""
        result = self.run(command, timeout)
        if result.status:
            raise GuestError(f"`{command}` ended with status {result.status}: {result.output.strip()}")
        return result.output

    def poweroff(self, timeout: float = 30.0) -> int:
        """Let the guest power off; the exit code of the VMM."""
        self.send(b"0 poweroff\n")
        return self.wait(timeout)

    def reboot(self, timeout: float | None = None) -> None:
        """Let the guest reboot, and wait until it takes commands again."""
        self.send(b"0 reboot\n")
        self.wait_ready(timeout)

    def send(self, data: bytes) -> None:
        """Type ``data`` on the serial port."""
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(data)
            stdin.flush()
        except (BrokenPipeError, ValueError):
            raise GuestDied("the VMM no longer reads the guest's console" + self._tail()) from None

    def expect(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:
        """Wait for the regular expression in console text that nothing has taken yet."""
        return self._await(pattern, timeout, f"/{pattern}/ on the console")

    def _await(self, pattern: str, timeout: float, what: str) -> re.Match[str]:
        deadline = time.monotonic() + timeout
        compiled = re.compile(pattern)
        while True:
            # latin-1 keeps offsets in text and in bytes the same.
            text = self._console[self._read :].decode("latin-1")
            found = compiled.search(text)
            if found:
                self._read += found.end()
                return found
            if not self._open:
                status = self.process.wait()
                raise GuestDied(f"the VMM ended (status {status}) while waiting for {what}" + self._tail())
            if not self._pump(deadline):
                raise GuestTimeout(f"after {timeout:.0f} s still no sign of {what}" + self._tail())

    def _pump(self, deadline: float) -> bool:
        """Take in what the VMM writes; False when nothing came before the deadline."""
        events = self._selector.select(max(0.0, deadline - time.monotonic()))
        for key, _ in events:
            data = os.read(key.fd, 65536)
            if data:
                key.data.extend(data)
            else:
                self._selector.unregister(key.fileobj)
                self._open -= 1
        return bool(events)

    def _threads(self) -> str:
        """What the VMM's threads do: name, state, processor time in ticks, where in the kernel they wait."""
        lines = ["\n--- threads of the VMM:"]
        for task in sorted(Path("/proc").glob(f"{self.pid}/task/*")):
            with contextlib.suppress(OSError):
                name, _, rest = (task / "stat").read_text().rpartition(")")
                words = rest.split()
                where = (task / "wchan").read_text() + " " + (task / "syscall").read_text().split()[0]
                lines.append(f"{name.partition('(')[2]}: {words[0]}, {words[11]} + {words[12]} ticks, {where}")
        return "\n".join(lines)

    def _tail(self) -> str:
        said = self.stderr.strip()
        return (
            f"\n--- command: {shlex.join(self.argv)}"
            + (f"\n--- stderr of the VMM:\n{said[-_TAIL:]}" if said else "")
            + f"\n--- console:\n{self.console[-_TAIL:]}"
        )


def _decode(text: str) -> str | None:
    """Undo base64 and gzip; None when the data is damaged."""
    # Whole lines of other text (kernel messages) are recognised by their characters and left out.
    lines = [
        line for line in text.replace("\r", "").split("\n") if re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", line)
    ]
    try:
        packed = base64.b64decode("".join(lines), validate=True)
        unpacker = zlib.decompressobj(31)
        data = unpacker.decompress(packed)
    except (binascii.Error, zlib.error):
        return None
    return data.decode(errors="replace") if unpacker.eof and not unpacker.unused_data else None
