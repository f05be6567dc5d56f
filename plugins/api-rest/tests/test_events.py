# SPDX-License-Identifier: Apache-2.0
"""Events as they happen, and metrics."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_served import Served
from vmmcore.errors import VmmError

from vmm_api_rest.streams import BACKLOG, MAX_LISTENERS, Events

pytestmark = pytest.mark.needs_kvm


def messages(parts: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


def test_a_listener_hears_what_happens(api: Served, forever: Path, image: Path) -> None:
    stream = api.stream("events")
    assert next(stream).startswith(b":")  # it listens from here on
    api.create(forever)
    api.put("vm.boot")
    api.put("vm.pause")
    api.put("vm.resume")
    api.put("vm.add-disk", {"path": str(image), "id": "d"})
    api.put("vm.remove-device", {"id": "d", "force": True})
    api.put("vmm.shutdown")
    heard = [message for message in messages(stream) if message["source"] == "vm"]
    names = [message["event"] for message in heard]
    wanted = ["booted", "paused", "resumed", "device-added", "device-removed", "shutdown", "deleted"]
    assert [name for name in names if name in wanted] == wanted
    assert heard[names.index("device-added")]["properties"]["id"] == "d"
    times = [(message["timestamp"]["secs"], message["timestamp"]["nanos"]) for message in heard]
    assert times == sorted(times)


def test_too_many_listeners(api: Served) -> None:
    streams = [api.stream("events") for _ in range(MAX_LISTENERS)]
    for stream in streams:
        next(stream)
    with pytest.raises(VmmError, match="429"):
        next(api.stream("events"))
    assert api.request("GET", "vmm.ping")[0] == 200


def test_listeners_that_leave_before_they_hear_anything(api: Served) -> None:
    """Their places are free again, although not even the answer's head could be sent."""
    for _ in range(MAX_LISTENERS + 4):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(api.path)
            client.shutdown(socket.SHUT_RD)  # what the server sends from here on fails
            client.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            poll = select.poll()
            poll.register(client, 0)  # POLLHUP is reported unasked
            assert poll.poll(60_000), "the server has not closed the connection"
    assert next(api.stream("events")).startswith(b":")


def test_a_listener_that_does_not_keep_up_is_dropped() -> None:
    events = Events("vm")
    slow, quick = events.listen(), events.listen()
    assert slow is not None
    assert quick is not None
    next(slow)
    next(quick)
    for _ in range(BACKLOG + 10):
        events.tell("device-added", {"device": "d"})
        assert b"device-added" in next(quick)
    assert sum(1 for _ in slow) == BACKLOG


def test_metrics(running: Served) -> None:
    text = running.call("GET", "metrics")
    assert 'vmm_state{vm="vm",state="running"} 1\n' in text
    running.put("vm.shutdown")
    assert running.call("GET", "metrics") is None


def test_an_event_monitor_of_the_process(serve: Callable[..., Served], forever: Path, tmp_path: Path) -> None:
    pytest.importorskip("vmm_event_monitor", reason="needs the plugin: pip install vmm-event-monitor")
    path = tmp_path / "events"
    path.touch()
    api = serve("--event-monitor", f"path={path}")
    api.create(forever)
    api.put("vm.boot")
    api.put("vmm.shutdown")
    assert api.end()[0] == 0
    told = [json.loads(text)["event"] for text in path.read_text().split("\n\n") if text.strip()]
    assert told[0] == "starting"
    assert "booted" in told
    assert told.count("booted") == 1
