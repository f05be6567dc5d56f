# SPDX-License-Identifier: Apache-2.0
"""Speaking to the API: one request on a connection of its own."""

from __future__ import annotations

import array
import json
import os
import socket

import h11
from vmmcore.errors import UserError, VmmError

from .calls import ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any


class Client:
    """The API at the Unix socket `path`. `timeout`: seconds of silence after which a request has failed."""

    def __init__(self, path: str | os.PathLike[str], timeout: float = 120.0) -> None:
        self.path, self.timeout = os.fspath(path), timeout

    def request(self, method: str, name: str, body: Any = None, fds: Sequence[int] = ()) -> tuple[int, Any]:
        """The status, and the answer's JSON (None: there is none). Raises UserError (nobody there), VmmError."""
        data = b"" if body is None else json.dumps(body).encode()
        status, answer = self.exchange(method, f"{ROOT}/{name}", data, fds)
        try:
            return status, json.loads(answer) if answer else None
        except ValueError:
            return status, answer.decode(errors="replace")

    def call(self, method: str, name: str, body: Any = None, fds: Sequence[int] = ()) -> Any:
        """As :meth:`request`: the answer alone. Raises VmmError for every status that is no success."""
        status, answer = self.request(method, name, body, fds)
        if status >= 300:
            lines = answer if isinstance(answer, list) else [str(answer or "no reason given")]
            raise VmmError(f"{'; '.join(map(str, lines))} ({status})")
        return answer

    def exchange(self, method: str, target: str, body: bytes = b"", fds: Sequence[int] = ()) -> tuple[int, bytes]:
        """One request and its whole answer."""
        answer = self._answer(method, target, body, fds)
        status = next(answer)
        assert isinstance(status, int)
        return status, b"".join(part for part in answer if isinstance(part, bytes))

    def stream(self, name: str) -> Iterator[bytes]:
        """The answer to a GET as it comes. Raises VmmError if it is no success."""
        answer = self._answer("GET", f"{ROOT}/{name}", b"", ())
        status = next(answer)
        if status != 200:
            text = b"".join(part for part in answer if isinstance(part, bytes)).decode(errors="replace")
            raise VmmError(f"{name}: {text} ({int(status)})")
        for part in answer:
            assert isinstance(part, bytes)
            yield part

    def _answer(self, method: str, target: str, body: bytes, fds: Sequence[int]) -> Iterator[int | bytes]:
        """The status, then parts of the body."""
        http = h11.Connection(h11.CLIENT)
        headers = [("Host", "localhost"), ("Accept", "*/*"), ("Connection", "close")]
        if body:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        data = http.send(h11.Request(method=method, target=target, headers=headers)) or b""
        data += http.send(h11.Data(data=body)) or b"" if body else b""
        data += http.send(h11.EndOfMessage()) or b""
        with self._connect() as sock:
            try:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                sent = sock.sendmsg([data], rights)
                sock.sendall(data[sent:])
            except OSError:
                pass  # it answers before it has read all of it
            while True:
                try:
                    event = http.next_event()
                    if event is h11.NEED_DATA:
                        http.receive_data(sock.recv(64 << 10))
                    elif isinstance(event, h11.Response):
                        yield event.status_code
                    elif isinstance(event, h11.Data):
                        yield bytes(event.data)
                    elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                        return
                except TimeoutError:
                    raise VmmError(f"{self.path}: no answer for {self.timeout:g} s") from None
                except (OSError, h11.RemoteProtocolError) as error:
                    raise VmmError(f"{self.path}: {error}") from None

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self.path)
        except OSError as error:
            sock.close()
            raise UserError("--api-socket", f"{self.path}: {error.strerror or error}",
                            "name the socket of a running `vmm run --api-socket`") from None
        return sock
