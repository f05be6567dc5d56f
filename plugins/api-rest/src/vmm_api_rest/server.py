# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 on a Unix socket: a thread for each connection, h11 for the protocol, SCM_RIGHTS for descriptors.

What a client may take is bounded: the time for a request and for its answer, the bytes of both its parts, the number of
connections. When there are too many, the one that has been silent the longest goes; one whose request is being worked
on never does.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import threading
import time
from http import HTTPStatus

import h11

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class Stream(Protocol):
        def __iter__(self) -> Iterator[bytes]: ...
        def close(self) -> None: ...


#: bytes of a request's body, and of its line with all headers
MAX_BODY, MAX_HEAD = 4 << 20, 16 << 10
MAX_CONNECTIONS = 64
MAX_FDS = 64
#: seconds for a request from its first byte on, for taking an answer, and between requests
REQUEST_TIME, ANSWER_TIME, IDLE_TIME = 10.0, 10.0, 300.0
#: seconds in which what a refused client still sends is thrown away
LINGER = 2.0


class Request:
    """One request. Descriptors left in `fds` are closed when it has been answered."""

    __slots__ = ("body", "fds", "method", "path")

    def __init__(self, method: str, path: str, body: bytes, fds: list[int]) -> None:
        self.method, self.path, self.body, self.fds = method, path, body, fds


class Response:
    """One answer. `stream` goes on after the body until it ends or the client goes; `after` is called then.

    The connection closes the stream, also one that it could not begin to send.
    """

    __slots__ = ("after", "body", "kind", "status", "stream")

    def __init__(self, status: int, body: bytes = b"", kind: str = "application/json", *,
                 stream: Stream | None = None, after: Callable[[], None] | None = None) -> None:  # fmt: skip
        self.status, self.body, self.kind, self.stream, self.after = status, body, kind, stream, after


class TooSlow(Exception):
    """The client did not keep to a time limit."""


class Refused(Exception):
    """A request that is not read to its end."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Server:
    """Serves `answer(request)` at a listening socket until :meth:`close`. `refusal` makes the body of an error."""

    def __init__(self, listener: int, answer: Callable[[Request], Response], refusal: Callable[[str], bytes]) -> None:
        self._socket = socket.socket(fileno=listener)
        self._socket.setblocking(False)
        self._answer, self._refusal = answer, refusal
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._accept, name="api", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, patience: float = 2.0) -> None:
        """Accept nothing more; connections have `patience` seconds for what they do."""
        os.write(self._woken, b"x")
        self._thread.join()
        self._socket.close()
        deadline = time.monotonic() + patience
        with self._lock:
            left = list(self._connections)
        for connection in left:
            connection.leave()
        for connection in left:
            connection.thread.join(max(0.0, deadline - time.monotonic()))
        os.close(self._wake)
        os.close(self._woken)

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._wake in ready:
                return
            try:
                client, _ = self._socket.accept()
            except (BlockingIOError, ConnectionError):
                continue
            except OSError:  # out of descriptors: somebody has to go before anybody comes
                if not self._drop_one():
                    time.sleep(0.1)
                continue
            if not _allowed(client) or not self._admit(client):
                client.close()

    def _admit(self, client: socket.socket) -> bool:
        with self._lock:
            full = len(self._connections) >= MAX_CONNECTIONS
        if full and not self._drop_one():
            return False
        connection = Connection(self, client)
        with self._lock:
            self._connections.add(connection)
        connection.thread.start()
        return True

    def _drop_one(self) -> bool:
        """End the connection that has kept us waiting the longest."""
        with self._lock:
            waiting = [connection for connection in self._connections if not connection.busy]
            if not waiting:
                return False
            last = min(waiting, key=lambda connection: connection.since)
            self._connections.discard(last)
        last.leave()
        return True

    def _done(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)


def _allowed(client: socket.socket) -> bool:
    """Whether the one who connected is this user, or root (unix(7), SO_PEERCRED)."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return uid in (0, os.geteuid())


class Connection:
    """One client. `busy` while its request is worked on; `since` when it last began to keep us waiting."""

    def __init__(self, server: Server, client: socket.socket) -> None:
        self._server, self._socket = server, client
        self.busy, self.since = False, time.monotonic()
        self._leaving = False
        self._fds: list[int] = []
        self._bodyless = False  # the answer has no body, whatever its headers say: the request is HEAD
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self.thread = threading.Thread(target=self._run, name="api-client", daemon=True)

    def leave(self) -> None:
        """End it when it has nothing to do; what it waits for ends now. From another thread."""
        self._leaving = True
        if not self.busy:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _run(self) -> None:
        try:
            while not self._leaving and self._serve_one():
                pass
        except (OSError, TooSlow):
            pass
        except Exception as error:
            print(f"vmm: API: internal error: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            self._server._done(self)
            self._close_fds()
            self._socket.close()

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    # --- reading ----------------------------------------------------------

    def _serve_one(self) -> bool:
        """Read one request and answer it. Whether another may follow."""
        self.since = time.monotonic()
        try:
            request = self._read_request()
        except (h11.RemoteProtocolError, Refused, TooSlow) as error:
            self._refuse(error)
            return False
        if request is None:
            return False
        self.busy = True
        try:
            response = self._server._answer(request)
            self._close_fds()  # what nobody took
            self._write(response)
        finally:
            self.busy = False
        if response.after is not None:
            response.after()
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def _read_request(self) -> Request | None:
        """The next request, or None: the client has gone."""
        head: h11.Request | None = None
        self._bodyless = False
        body = bytearray()
        deadline = None
        if self._http.trailing_data[0]:  # of a request that came with the one before
            deadline = self.since + REQUEST_TIME
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                if not self._receive(deadline):
                    if deadline is not None:
                        raise Refused(HTTPStatus.BAD_REQUEST)
                    return None
                if deadline is None:
                    deadline = time.monotonic() + REQUEST_TIME
            elif isinstance(event, h11.Request):
                head = event
                self._bodyless = event.method == b"HEAD"
                if sum(len(name) + len(value) for name, value in event.headers) > MAX_HEAD:
                    raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                length = dict(event.headers).get(b"content-length", b"0")
                if int(length) > MAX_BODY:
                    raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY:
                    raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                path = head.target.decode("ascii", "replace").partition("?")[0]
                return Request(head.method.decode("ascii", "replace"), path, bytes(body), self._fds)
            else:  # ConnectionClosed
                return None

    def _receive(self, deadline: float | None) -> bool:
        """Feed what comes next to h11; False at the end of it. Raises TooSlow."""
        limit = self.since + IDLE_TIME if deadline is None else deadline
        rest = limit - time.monotonic()
        if rest <= 0:
            raise TooSlow
        self._socket.settimeout(rest)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                64 << 10, socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
            )
        except TimeoutError:
            raise TooSlow from None
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._fds += memoryview(rights[: len(rights) - len(rights) % 4]).cast("i")
        if flags & socket.MSG_CTRUNC or len(self._fds) > MAX_FDS:
            raise Refused(HTTPStatus.BAD_REQUEST)
        self._http.receive_data(data)
        return bool(data)

    # --- answering --------------------------------------------------------

    def _refuse(self, error: Exception) -> None:
        """Answer what is no request, if that is still possible; then the connection ends."""
        status = HTTPStatus.BAD_REQUEST
        reason = "the request is not HTTP as we understand it"
        if isinstance(error, TooSlow):
            if self._http.their_state is h11.IDLE and not self._http.trailing_data[0]:
                return  # nothing was asked
            status, reason = HTTPStatus.REQUEST_TIMEOUT, f"the request did not come within {REQUEST_TIME:g} s"
        elif isinstance(error, Refused):
            status = HTTPStatus(error.status)
            if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                reason = f"the body is longer than {MAX_BODY} bytes"
            elif status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                reason = f"the headers are longer than {MAX_HEAD} bytes"
        elif isinstance(error, h11.RemoteProtocolError):
            status = HTTPStatus(error.error_status_hint)
            reason = f"{reason}: {error}"
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        self._write(Response(status, self._server._refusal(reason)), last=True)
        self._drain()

    def _drain(self) -> None:
        """Let the client read the refusal: one that still sends would be cut off before."""
        self._socket.shutdown(socket.SHUT_WR)
        deadline, left = time.monotonic() + LINGER, 2 * MAX_BODY
        while left > 0 and (rest := deadline - time.monotonic()) > 0:
            self._socket.settimeout(rest)
            data = self._socket.recv(64 << 10)
            if not data:
                return
            left -= len(data)

    def _write(self, response: Response, last: bool = False) -> None:
        try:
            self._write_all(response, last)
        finally:
            if response.stream is not None:
                response.stream.close()

    def _write_all(self, response: Response, last: bool) -> None:
        status = HTTPStatus(response.status)
        headers = [("Server", "vmm API")]
        if response.stream is not None:
            headers += [("Content-Type", response.kind), ("Cache-Control", "no-store")]
        elif status != HTTPStatus.NO_CONTENT:
            headers += [("Content-Type", response.kind), ("Content-Length", str(len(response.body)))]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, PUT"))
        if last or self._leaving or response.after is not None:
            headers.append(("Connection", "close"))
        # No reason phrase: Cloud Hypervisor's client takes all up to the end of the line for the number.
        head = h11.Response(status_code=status, headers=headers, reason=b"")
        if response.stream is None:
            body = b"" if self._bodyless else response.body
            self._send(head, *([h11.Data(data=body)] if body else []), h11.EndOfMessage())
            return
        self._send(head)
        for part in response.stream:
            if self._leaving or self._bodyless:
                break
            self._send(h11.Data(data=part))
        self._send(h11.EndOfMessage())

    def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._http.send(event) or b"" for event in events)
        if data:
            self._socket.settimeout(ANSWER_TIME)
            self._socket.sendall(data)
