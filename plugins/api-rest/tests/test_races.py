# SPDX-License-Identifier: Apache-2.0
"""Clients that do not know of each other: consistent answers, no deadlock, a state that is as vm.info says."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_served import MIB, Served

from vmm_api_rest.client import Client

pytestmark = pytest.mark.needs_kvm


def at_once(*calls: Callable[[], Any], rounds: int = 1) -> list[list[Any]]:
    """Each call in a thread of its own, begun together, `rounds` times; what each returned."""
    barrier = threading.Barrier(len(calls))
    results: list[list[Any]] = [[] for _ in calls]
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            for _ in range(rounds):
                barrier.wait(60)
                results[number].append(calls[number]())
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in threads), "somebody still waits"
    return results


def ask(api: Served, method: str, name: str, body: Any = None) -> Callable[[], int]:
    client = Client(api.path, timeout=60)
    return lambda: client.request(method, name, body)[0]


def test_add_and_remove_of_one_id(running: Served, image: Path) -> None:
    add = ask(running, "PUT", "vm.add-disk", {"path": str(image), "id": "d", "readonly": True})
    remove = ask(running, "PUT", "vm.remove-device", {"id": "d", "force": True})
    added, added_too, removed, removed_too = at_once(add, add, remove, remove, rounds=25)
    assert set(added + added_too) <= {200, 409}
    assert set(removed + removed_too) <= {204, 404}
    info = running.info()
    there = (added + added_too).count(200) - (removed + removed_too).count(204)
    assert there in (0, 1)
    assert ("d" in info["device_tree"]) == bool(there)
    assert [disk["id"] for disk in info["config"].get("disks", [])] == ["d"] * there


def test_pause_and_resume(running: Served) -> None:
    pause, resume = ask(running, "PUT", "vm.pause"), ask(running, "PUT", "vm.resume")
    paused, resumed = at_once(pause, resume, rounds=100)
    assert set(paused + resumed) <= {204, 405}
    balance = paused.count(204) - resumed.count(204)
    assert running.info()["state"] == {0: "Running", 1: "Paused"}[balance]


def test_create_boot_shutdown_and_delete(api: Served, forever: Path) -> None:
    body = {"payload": {"kernel": str(forever)}, "memory": {"size": 32 * MIB}, "console": {"mode": "Off"}}
    answers = at_once(
        ask(api, "PUT", "vm.create", body), ask(api, "PUT", "vm.boot"), ask(api, "PUT", "vm.boot"),
        ask(api, "PUT", "vm.shutdown"), ask(api, "PUT", "vm.delete"), ask(api, "GET", "vm.info"), rounds=15,
    )  # fmt: skip
    assert set(answers[0]) <= {204, 405}
    assert set(answers[1] + answers[2] + answers[3]) <= {204, 404, 405}
    assert set(answers[4]) == {204}
    assert set(answers[5]) <= {200, 404}
    assert api.put("vm.delete") == 204
    assert api.request("GET", "vm.info")[0] == 404


def test_hot_plug_during_reboots(running: Served, image: Path) -> None:
    add = ask(running, "PUT", "vm.add-disk", {"path": str(image), "id": "d", "readonly": True})
    remove = ask(running, "PUT", "vm.remove-device", {"id": "d", "force": True})
    answers = at_once(add, remove, ask(running, "PUT", "vm.reboot"), ask(running, "GET", "vm.info"), rounds=25)
    assert set(answers[0]) <= {200, 409}
    assert set(answers[1]) <= {204, 404}
    assert set(answers[2]) == {204}
    assert set(answers[3]) == {200}
    there = answers[0].count(200) - answers[1].count(204)
    assert ("d" in running.info()["device_tree"]) == bool(there)


SLOW = """
import os
from vmmcore import Options, Option, PciDevice
from vmmcore.hooks import DeviceType, hookimpl

API = (1, 0)

class SlowOptions(Options):
    fifo = Option(str, doc="planning waits for its other end")

class Slow(PciDevice):
    vendor_id, device_id = 0x1234, 0x0043

def plan(context, options, device):
    with open(options.fifo) as fifo:
        fifo.read()

@hookimpl
def vmm_device_types():
    return [DeviceType("slow", "slow:Slow", options=SlowOptions, plan=plan)]
"""


def test_a_slow_request_keeps_nobody_from_looking_and_pausing(
    serve: Callable[..., Served], forever: Path, tmp_path: Path
) -> None:
    plugin, fifo = tmp_path / "slow.py", tmp_path / "fifo"
    plugin.write_text(SLOW)
    os.mkfifo(fifo)
    api = serve("--plugin", str(plugin))
    api.create(forever)
    api.put("vm.boot")
    slow = Client(api.path, timeout=60)
    answers: list[int] = []
    body = {"fifo": str(fifo)}
    thread = threading.Thread(target=lambda: answers.append(slow.request("PUT", "vm.add-device-type/slow", body)[0]))
    thread.start()
    with open(fifo, "w"):  # it is being planned now
        for _ in range(3):
            assert api.request("GET", "vmm.ping")[0] == 200
            assert api.info()["state"] == "Running"
            assert api.put("vm.pause") == 204
            assert api.info()["state"] == "Paused"
            assert api.put("vm.resume") == 204
            assert api.request("GET", "vm.counters")[0] == 200
        assert not answers
    thread.join(60)
    assert answers == [200]


def test_looking_is_quick_while_the_guest_is_busy(running: Served) -> None:
    """A bound far from what is measured (a millisecond): what would break it is a call that waits for another."""
    info = ask(running, "GET", "vm.info")
    times = []
    for _ in range(200):
        begin = time.monotonic()
        assert info() == 200
        times.append(time.monotonic() - begin)
    assert sorted(times)[100] < 1.0


def test_eight_clients_at_once(running: Served, image: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """For a minute with --soak: every answer is one of those documented, and at the end all agree."""
    seconds = 60.0 if request.config.getoption("--soak") else 4.0
    end = time.monotonic() + seconds
    names = [f"d{number}" for number in range(4)]
    answers: Counter[tuple[str, int]] = Counter()

    def client(seed: int) -> Callable[[], None]:
        chance = random.Random(seed)
        speaker = Client(running.path, timeout=60)

        def some() -> tuple[str, str, Any]:
            name = chance.choice(names)
            return chance.choice([
                ("GET", "vm.info", None), ("GET", "vm.counters", None), ("GET", "vmm.ping", None),
                ("PUT", "vm.pause", None), ("PUT", "vm.resume", None), ("PUT", "vm.reboot", None),
                ("PUT", "vm.add-disk", {"path": str(image), "id": name, "readonly": True}),
                ("PUT", "vm.remove-device", {"id": name, "force": True}),
                ("PUT", "vm.add-device-type/pvpanic", {}),
                ("PUT", "vm.remove-device", {"id": "pvpanic0", "force": True}),
                ("PUT", "vm.shutdown", None), ("PUT", "vm.boot", None), ("PUT", "vm.boot", None),
            ])  # fmt: skip

        def run() -> None:
            while time.monotonic() < end:
                method, call, body = some()
                answers[call, speaker.request(method, call, body)[0]] += 1

        return run

    at_once(*(client(seed) for seed in range(8)))
    assert {status for _, status in answers} <= {200, 204, 404, 405, 409}, answers
    info = running.info()
    if info["state"] == "Created":
        assert running.put("vm.boot") == 204
        info = running.info()
    configured = {disk["id"] for disk in info["config"].get("disks", [])}
    assert configured == {name for name in info["device_tree"] if name in names}
    assert info["config"]["pvpanic"] == ("pvpanic0" in info["device_tree"])
    if info["state"] == "Paused":
        assert running.put("vm.resume") == 204
    assert running.info()["state"] == "Running"
    assert running.put("vmm.shutdown") == 204
    assert running.end() == (0, "")
