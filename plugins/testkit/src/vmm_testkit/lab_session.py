# SPDX-License-Identifier: Apache-2.0
"""The talk with one running lab: the job's output out, its exit status back, and an end to all waiting."""

from __future__ import annotations

import os
import re
import selectors
import socket
import subprocess
import termios
import time
import tty
from collections.abc import Callable, Sequence
from typing import BinaryIO

#: seconds after which a CPU of the lab that has shown life, and no longer does, is dead
BEAT_LIMIT = 60.0


_BEAT = re.compile(rb"lab-beat (\d+)\r?\n")


class LabError(Exception):
    """The lab did not start or broke; the first line says why."""


class LabMissing(LabError):
    """The lab cannot start: something is missing. One line that says what, and what to do."""


class LabTimeout(LabError):
    """The job took longer than allowed; the lab was killed."""


class LabStalled(LabError):
    """The emulated host stopped: it printed nothing for too long and was killed, or its kernel died. Worth another
    try (docs/lab.md, Limits)."""


class Stream:
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


class Session:
    """The talk with one running lab, from QEMU's start to the job's end."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        streams: Sequence[Stream],
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
        self._beats: dict[bytes, float] = {}
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
        for cpu in _BEAT.findall(self._console):
            self._beats[cpu] = time.monotonic()
        self._console = _BEAT.sub(b"", self._console)

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
            if self._beats:
                until = min(until, min(self._beats.values()) + BEAT_LIMIT)
            events = self._selector.select(max(0.0, until - time.monotonic()))
            if any(key.data != self._on_console for key, _ in events):
                last = time.monotonic()
            if not events and time.monotonic() >= self._deadline:
                raise LabTimeout("the lab's time is over" + self._tail())
            dead = [cpu for cpu, seen in self._beats.items() if time.monotonic() - seen >= BEAT_LIMIT]
            if dead and not events:
                raise LabStalled(f"CPU {dead[0].decode()} of the lab has stopped" + self._tail())
            if not events and self._stall is not None and time.monotonic() - last >= self._stall:
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
                    raise self._death()

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

    def _death(self) -> LabError:
        code = self._process.wait()
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        text = f"QEMU ended (status {code}) before the job did" + (f": {said[-1]}" if said else "") + self._tail()
        return LabStalled(text) if code == 0 and b"Kernel panic" in self._console else LabError(text)

    def _tail(self) -> str:
        lines = self._console.decode(errors="replace").replace("\r", "").split("\n")
        tail = [line for line in lines if line.strip()][-40:]
        return "\n  the lab's console: " + "\n    ".join(["", *tail]) if tail else ""


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
