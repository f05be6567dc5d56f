# SPDX-License-Identifier: Apache-2.0
"""`--event-monitor` in a front: files, FIFOs, descriptors, readers that are slow or gone."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from eventfile import names
from vmmcore import UserError
from vmmcore.front.config import DeviceConfig
from vmmcore.front.context import FrontContext
from vmmcore.front.devices import plan_front
from vmmcore.front.plugins import Plugins


class Front:
    """A front with one stream; `tell` is what a VM does."""

    def __init__(self, options: str) -> None:
        self.plugins = Plugins()
        self.context: FrontContext = plan_front(self.plugins, [DeviceConfig("event-monitor", options)])

    def tell(self, event: str, vm_id: str = "vm", **data: Any) -> None:
        self.plugins.hooks.vmm_vm_event(vm_id=vm_id, event=event, data=data)


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_file_is_made_and_emptied(tmp_path: Path) -> None:
    path = tmp_path / "events"
    for _ in range(2):
        before = open_fds()
        front = Front(f"path={path}")
        assert names(path.read_text()) == ["vmm starting"]
        front.tell("booted")
        front.tell("deleted")
        front.context.release()
        assert names(path.read_text()) == ["vmm starting", "vm booting", "vm booted", "vm deleted", "vmm shutdown"]
        front.tell("paused")  # nobody listens any more
        assert names(path.read_text())[-1] == "vmm shutdown"
        assert open_fds() == before


def test_the_end_of_the_front_ends_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "events"
    front = Front(f"path={path}")
    front.tell("booted", "a")
    del front
    assert names(path.read_text())[-2:] == ["vm deleted", "vmm shutdown"]


def test_form(tmp_path: Path) -> None:
    path = tmp_path / "events"
    front = Front(f"path={path}")
    front.tell("device-removed", device="disk1", bdf="0000:00:05.0")
    first, second, rest = path.read_text().split("\n\n")
    assert rest == ""
    assert '\n  "timestamp": {\n    "secs": 0,' in first
    assert json.loads(first)["properties"] is None
    assert json.loads(second)["properties"] == {"id": "disk1", "bdf": "0000:00:05.0"}


def test_two_streams(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    plugins = Plugins()
    context = plan_front(plugins, [DeviceConfig("event-monitor", f"path={p}") for p in (a, b)])
    plugins.hooks.vmm_vm_event(vm_id="vm", event="booted", data={})
    context.release()
    assert names(a.read_text()) == names(b.read_text())


def test_a_fifo_needs_no_reader_yet(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    front = Front(f"path={path}")
    front.tell("booted")
    with open(path) as file:
        front.context.release()
        assert names(file.read()) == ["vmm starting", "vm booting", "vm booted", "vm deleted", "vmm shutdown"]


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_descriptor_stays_the_callers(kind: str) -> None:
    ours, theirs = os.pipe() if kind == "pipe" else (end.detach() for end in socket.socketpair())
    blocking = os.get_blocking(theirs)
    front = Front(f"fd={theirs}")
    front.tell("paused")
    front.context.release()
    assert os.get_blocking(theirs) == blocking
    os.close(theirs)
    with os.fdopen(ours) as file:
        assert names(file.read()) == ["vmm starting", "vm pausing", "vm paused", "vm deleted", "vmm shutdown"]


def test_a_slow_reader_holds_nothing_up(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = os.pipe()
    front = Front(f"fd={theirs}")
    for _ in range(20_000):
        front.tell("paused")
    os.set_blocking(ours, False)
    text = b""
    while len(text) < 1 << 20:  # what waited comes as soon as there is room, and an event that has a place
        try:
            text += os.read(ours, 1 << 20)
        except BlockingIOError:
            front.tell("resumed")
    front.context.release()
    try:
        while more := os.read(ours, 1 << 20):
            text += more
    except BlockingIOError:
        pass
    seen = names(text[: text.rindex(b"\n\n")].decode())
    assert {"vm paused", "vm resumed"} < set(seen)
    assert len(seen) < 40_000
    assert "events lost, its reader was too slow" in capsys.readouterr().err
    os.close(ours)
    os.close(theirs)


def test_a_reader_that_is_gone_ends_the_stream_alone(capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = os.pipe()
    front = Front(f"fd={theirs}")
    os.close(ours)
    for _ in range(3):
        front.tell("paused")
    front.context.release()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--event-monitor: Broken pipe" in said
    os.close(theirs)


@pytest.mark.parametrize(("options", "said"), [
    ("", "--event-monitor: says not where to write; give path=FILE or fd=N"),
    ("path=/tmp/x,fd=1", "--event-monitor: says two places where to write; give path=FILE or fd=N"),
    ("path=/no/such/folder/x", "--event-monitor path=: /no/such/folder/x: No such file or directory"),
    ("path=/tmp", "--event-monitor path=: /tmp: Is a directory"),
    ("fd=999", "--event-monitor fd=: 999 is not open"),
    ("fd=0", "--event-monitor fd=: 0 is too small"),
    ("files=x", "--event-monitor: unknown key 'files'; it takes fd, path"),
])
def test_what_cannot_be(options: str, said: str) -> None:
    before = open_fds()
    with pytest.raises(UserError) as raised:
        Front(options)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)
    assert open_fds() == before


def test_a_descriptor_for_reading(tmp_path: Path) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(UserError, match=f"--event-monitor fd=: {fd} is open for reading only; open it for writing"):
        Front(f"fd={fd}")
    os.close(fd)
