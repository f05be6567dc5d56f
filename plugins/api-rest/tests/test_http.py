# SPDX-License-Identifier: Apache-2.0
"""HTTP as clients get it wrong: each is refused, and nobody else notices."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from api_served import Served

from vmm_api_rest import server

PING = b"GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n"


@contextmanager
def connected(api: Served) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(api.path)
        yield client


def everything(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def ask(api: Served, data: bytes) -> bytes:
    with connected(api) as client:
        try:
            client.sendall(data)
        except BrokenPipeError:
            pass  # refused before all of it was sent
        return everything(client)


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


@pytest.mark.parametrize(("data", "expected"), [
    (b"garbage\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 60 + b"\r\n\r\n", 400),
    (b"GET\r\n\r\n", 400),
    (PING + b"Content-Length: -1\r\n\r\n", 400),
    (PING + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (PING + b"Bad Header : x\r\n\r\n", 400),
    (b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n", 400),  # no Host
    (PING + b"X: " + b"x" * (64 << 10) + b"\r\n\r\n", 431),
    (b"G" * (64 << 10), 431),
    (b"PUT /api/v1/vm.create HTTP/1.1\r\nHost: l\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5000000, 413),
    (b"PUT /api/v1/vm.create HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\n"
     + b"fffff\r\n" + b"x" * 0xFFFFF + b"\r\n" + 5 * (b"fffff\r\n" + b"x" * 0xFFFFF + b"\r\n"), 413),
    (b"PUT /api/v1/vm.create HTTP/1.1\r\nHost: l\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"PATCH /api/v1/vm.create HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n", 400),
    (b"GET /api/v1/../../etc/passwd HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n", 404),
    (b"GET / HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n", 404),
])  # fmt: skip
def test_what_is_no_request(idle: Served, data: bytes, expected: int) -> None:
    assert status(ask(idle, data)) == expected
    assert idle.request("GET", "vmm.ping")[0] == 200


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b'"x"', b"[" * 100000, b'{"payload":' * 5000, b"\xff\xfe", b'{"payload": NaN}', b"1e999",
    b'{"payload": {"kernel": "\\ud800"}}', b'{"payload": {"kernel": "a\\u0000b"}}', b'{"payload": {"kernel": ""}}',
])  # fmt: skip
def test_bodies_that_are_no_config(idle: Served, body: bytes) -> None:
    code, answer = idle.exchange("PUT", "/api/v1/vm.create", body)
    assert code == 400, answer
    assert answer.startswith(b'["')
    assert idle.request("GET", "vm.info")[0] == 404


def test_several_requests_on_one_connection(idle: Served) -> None:
    with connected(idle) as client:
        client.sendall(PING + b"\r\n" + PING + b"\r\n" + PING + b"Connection: close\r\n\r\n")
        assert everything(client).count(b"HTTP/1.1 200 ") == 3


def test_head_is_refused_without_a_body(idle: Served) -> None:
    """The answer's length is said and its body left out, so that the next answer follows the head."""
    head = PING.replace(b"GET", b"HEAD")
    with connected(idle) as client:
        client.sendall(head + b"\r\n" + PING + b"Connection: close\r\n\r\n")
        refused, answered, body = everything(client).split(b"\r\n\r\n")
    assert status(refused) == 400
    assert b"\r\nContent-Length: " in refused
    assert status(answered) == 200
    assert body.startswith(b"{")
    for path in (b"events", b"nonsense"):
        answer = ask(idle, head.replace(b"vmm.ping", path) + b"Connection: close\r\n\r\n")
        assert status(answer) in (400, 404)
        assert answer.endswith(b"\r\n\r\n")
    answer = ask(idle, head + b"Content-Length: 5000000\r\n\r\n")  # refused before its end
    assert status(answer) == 413
    assert answer.endswith(b"\r\n\r\n")


def test_a_request_in_single_bytes(idle: Served) -> None:
    with connected(idle) as client:
        for byte in PING + b"Connection: close\r\n\r\n":
            client.sendall(bytes([byte]))
        assert status(everything(client)) == 200


def test_a_client_that_announces_its_body(idle: Served) -> None:
    body = b'{"id": "x"}'
    with connected(idle) as client:
        client.sendall(b"PUT /api/v1/vm.remove-device HTTP/1.1\r\nHost: l\r\nConnection: close\r\n"
                       b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(body)
        assert status(everything(client)) == 404


def test_a_client_as_cloud_hypervisors_own(idle: Served) -> None:
    """It sends its request in pieces, no content type, and reads the answer as it does here."""
    with connected(idle) as client:
        client.sendall(b"GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n")
        client.sendall(b"\r\n")
        answer = client.recv(65536)
    assert int(answer[answer.index(b"HTTP/1.1") + 8 : answer.index(b"\r")]) == 200  # the number and nothing else
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert b"Content-Length" not in ask(idle, b"PUT /api/v1/vm.delete HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n")


def test_many_silent_clients_do_not_keep_others_out(idle: Served) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(2 * server.MAX_CONNECTIONS)]
    try:
        for number, client in enumerate(silent):
            client.connect(idle.path)
            client.sendall(PING[: number % len(PING)])
            if number % 16 == 0:
                assert idle.request("GET", "vmm.ping")[0] == 200
        assert idle.request("GET", "vmm.ping")[0] == 200
    finally:
        for client in silent:
            client.close()
    assert idle.request("GET", "vmm.ping")[0] == 200


def test_clients_that_leave(idle: Served) -> None:
    for cut in range(1, len(PING), 7):
        with connected(idle) as client:
            client.sendall(PING[:cut])
    with connected(idle) as client:
        client.sendall(b"PUT /api/v1/vm.create HTTP/1.1\r\nHost: l\r\nContent-Length: 100\r\n\r\nhalf")
    assert idle.request("GET", "vmm.ping")[0] == 200


@pytest.mark.parametrize("sent", [b"GET /api/v1/vmm.pi", PING + b"Content-Length: 10\r\n\r\nhalf"])
def test_a_request_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(server, "REQUEST_TIME", 0.2)
    ours, theirs = socket.socketpair()
    listener, _ = socket.socketpair()
    served = server.Server(listener.detach(), lambda request: server.Response(204), lambda text: b"[]")
    connection = server.Connection(served, theirs)
    connection.thread.start()
    with ours:
        ours.settimeout(60)
        ours.sendall(sent)
        assert status(ours.recv(4096)) == 408


def test_an_answer_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER_TIME", 0.2)
    ours, theirs = socket.socketpair()
    listener, _ = socket.socketpair()
    served = server.Server(
        listener.detach(), lambda request: server.Response(200, bytes(64 << 20)), lambda text: b"[]"
    )
    connection = server.Connection(served, theirs)
    connection.thread.start()
    with ours:
        ours.sendall(PING + b"\r\n")
        connection.thread.join(60)
        assert not connection.thread.is_alive()


def test_a_slow_request_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one connection is busy with is nothing to another: the server's threads share no lock while they answer."""
    ours, theirs = socket.socketpair()
    other, others = socket.socketpair()
    listener, _ = socket.socketpair()
    go_on = threading.Event()

    def answer(request: server.Request) -> server.Response:
        if request.path == "/slow":
            go_on.wait(60)
        return server.Response(204)

    served = server.Server(listener.detach(), answer, lambda text: b"[]")
    for end in (theirs, others):
        server.Connection(served, end).thread.start()
    with ours, other:
        ours.sendall(b"GET /slow HTTP/1.1\r\nHost: l\r\n\r\n")
        other.settimeout(60)
        for _ in range(3):
            other.sendall(PING + b"\r\n")
            assert status(other.recv(4096)) == 204
        go_on.set()
        assert status(ours.recv(4096)) == 204
