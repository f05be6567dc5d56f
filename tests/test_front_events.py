# SPDX-License-Identifier: Apache-2.0
"""Our events in Cloud Hypervisor's form."""

from __future__ import annotations

import json

from vmmcore.front.events import Renderer, sse


def names(*events: tuple[str, dict[str, object]]) -> list[str]:
    renderer = Renderer()
    return [f"{m['source']} {m['event']}" for event, data in events for m in renderer.render(event, data, "vm")]


def test_a_life() -> None:
    told = [("created", {}), ("booted", {}), ("paused", {}), ("resumed", {}), ("rebooted", {}), ("booted", {}),
            ("paused", {}), ("exited", {"status": 0}), ("deleted", {})]
    assert names(*told) == [
        "vm booting", "vm booted", "vm pausing", "vm paused", "vm resuming", "vm resumed", "vm rebooting",
        "vm rebooted", "vm pausing", "vm paused", "vm shutdown", "vm deleted",
    ]


def test_a_vm_that_ended_while_it_rebooted_boots_like_any_other() -> None:
    assert names(("rebooted", {}), ("exited", {"status": 1}), ("booted", {}))[-2:] == ["vm booting", "vm booted"]


def test_reboots_of_two_vms_are_two() -> None:
    renderer = Renderer()
    renderer.render("rebooted", {}, "a")
    assert [m["event"] for m in renderer.render("booted", {}, "b")] == ["booting", "booted"]
    assert [m["event"] for m in renderer.render("booted", {}, "a")] == ["rebooted"]


def test_form_and_properties() -> None:
    message, = Renderer().render("device-removed", {"device": "disk1", "bdf": "0000:00:05.0"})
    assert list(message) == ["timestamp", "source", "event", "properties"]
    assert set(message["timestamp"]) == {"secs", "nanos"}
    assert message["properties"] == {"id": "disk1", "bdf": "0000:00:05.0"}
    begins, done = Renderer().render("cpus-resized", {"cpus": 4})
    assert (begins["properties"], done["properties"]) == (None, {"cpus": "4"})
    assert Renderer().render("paused", {})[1]["properties"] is None


def test_time_never_goes_back() -> None:
    renderer = Renderer()
    stamps = [m["timestamp"] for _ in range(50) for m in renderer.render("paused", {})]
    assert stamps == sorted(stamps, key=lambda t: (t["secs"], t["nanos"]))
    assert all(0 <= t["nanos"] < 1_000_000_000 for t in stamps)


def test_a_panic_is_the_guests() -> None:
    panic, ending = Renderer().render("ending", {"reason": "panic"})
    assert (panic["source"], panic["event"], panic["properties"]) == ("guest", "panic", {"event": "panic"})
    assert (ending["event"], ending["properties"]) == ("ending", {"reason": "panic"})


def test_an_unknown_event_keeps_its_name() -> None:
    message, = Renderer().render("watchdog-expired", {"device": "watchdog0"})
    assert (message["source"], message["event"]) == ("vm", "watchdog-expired")
    assert message["properties"] == {"id": "watchdog0"}


def test_a_server_sent_event() -> None:
    message, = Renderer().render("device-failed", {"device": "net0", "reason": "line one\nline two"})
    head, kind, data, *end = sse(message, 7).decode().split("\n")
    assert (head, kind, end) == ("id: 7", "event: vm.device-failed", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == message
