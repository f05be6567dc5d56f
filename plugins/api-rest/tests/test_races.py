# SPDX-License-Identifier: Apache-2.0
"""Clients that do not know of each other: consistent answers, no deadlock, a state that is as vm.info says."""

from __future__ import annotations

import itertools
import os
import platform
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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


@pytest.mark.arch("x86_64", reason="Arm without ACPI has a fixed number of CPUs")
def test_resizes_during_pauses(api: Served, forever: Path) -> None:
    """All of them are carried out, whether the VM runs at that moment or stands; none changes which it does."""
    api.create(forever, cpus={"boot_vcpus": 1, "max_vcpus": 8}, memory={"size": 64 * MIB, "hotplug_size": 1024 * MIB})
    api.call("PUT", "vm.boot")
    client = Client(api.path, timeout=60)
    cpus, sizes = itertools.count(2), itertools.count(192 * MIB, 128 * MIB)

    def more_cpus() -> int:
        return client.request("PUT", "vm.resize", {"desired_vcpus": next(cpus)})[0]

    def more_memory() -> int:
        return client.request("PUT", "vm.resize", {"desired_ram": next(sizes)})[0]

    pause, resume = ask(api, "PUT", "vm.pause"), ask(api, "PUT", "vm.resume")
    paused, resumed, *resized = at_once(pause, resume, more_cpus, more_memory, rounds=7)
    assert set(paused + resumed) <= {204, 405}
    assert resized == [[204] * 7] * 2
    info = api.info()
    assert info["state"] == {0: "Running", 1: "Paused"}[paused.count(204) - resumed.count(204)]
    assert info["config"]["cpus"]["boot_vcpus"] == 8
    assert sum(name.startswith("vcpu") for name in api.call("GET", "vm.counters")) == 8
    assert info["memory_actual_size"] == 960 * MIB
    assert info["config"]["memory"]["hotplugged_size"] == 896 * MIB


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


@pytest.fixture
def slow(serve: Callable[..., Served], forever: Path, tmp_path: Path) -> tuple[Served, Path]:
    """One that knows a device that is planned only when somebody opens the FIFO for writing and closes it again."""
    plugin, fifo = tmp_path / "slow.py", tmp_path / "fifo"
    plugin.write_text(SLOW)
    os.mkfifo(fifo)
    return serve("--plugin", str(plugin)), fifo


@contextmanager
def meanwhile(call: Callable[[], int]) -> Iterator[list[int]]:
    """Make a call in a thread; its answer is in the list when the block has ended."""
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    yield answers
    thread.join(60)


def test_a_slow_request_keeps_nobody_from_looking_and_pausing(slow: tuple[Served, Path], forever: Path) -> None:
    api, fifo = slow
    api.create(forever)
    api.put("vm.boot")
    add = ask(api, "PUT", "vm.add-device-type/slow", {"fifo": str(fifo)})
    with meanwhile(add) as answers, open(fifo, "w"):  # it is being planned now
        for _ in range(3):
            assert api.request("GET", "vmm.ping")[0] == 200
            assert api.info()["state"] == "Running"
            assert api.put("vm.pause") == 204
            assert api.info()["state"] == "Paused"
            assert api.put("vm.resume") == 204
            assert api.request("GET", "vm.counters")[0] == 200
        assert not answers
    assert answers == [200]


@pytest.mark.parametrize(("end", "then"), [("vm.shutdown", 200), ("vm.delete", 404)])
def test_a_slow_boot_keeps_nobody_from_looking_and_its_end_follows_it(
    slow: tuple[Served, Path], forever: Path, end: str, then: int
) -> None:
    api, fifo = slow
    api.create(forever, slow=[{"fifo": str(fifo)}])
    with ExitStack() as calls:
        booted = calls.enter_context(meanwhile(ask(api, "PUT", "vm.boot")))
        with open(fifo, "w"):  # it is being planned now
            ended = calls.enter_context(meanwhile(ask(api, "PUT", end)))
            for _ in range(3):
                assert api.request("GET", "vmm.ping")[0] == 200
                assert api.info()["state"] == "Created"
                assert api.put("vm.pause") == 405
                assert api.request("GET", "vm.counters")[0] == 405
            assert not booted
            assert not ended
    assert (booted, ended) == ([204], [204])
    status, info = api.request("GET", "vm.info")
    assert status == then
    assert status == 404 or info["state"] == "Created"


def test_what_is_added_while_the_vm_ends_is_there_after_the_next_boot(running: Served, image: Path) -> None:
    """The machine that ends never had it, which is no reason to take it for removed."""
    runner = running.runner()
    os.kill(runner, signal.SIGSTOP)
    try:
        with meanwhile(ask(running, "PUT", "vm.shutdown")) as ended:
            while running.info()["state"] == "Running":
                time.sleep(0.02)
            assert running.put("vm.add-disk", {"path": str(image), "id": "d"}) == 204
            assert running.put("vm.add-device-type/pvpanic", {}) == 204
            assert not ended
            os.kill(runner, signal.SIGCONT)
    finally:
        if not ended:
            os.kill(runner, signal.SIGCONT)
    assert ended == [204]
    config = running.info()["config"]
    assert [disk["id"] for disk in config["disks"]] == ["d"]
    assert config["pvpanic"] is True
    assert running.put("vm.boot") == 204
    assert {"d", "pvpanic0"} <= running.info()["device_tree"].keys()


def test_eight_clients_at_once(api: Served, forever: Path, image: Path, request: pytest.FixtureRequest) -> None:
    """For a minute with --soak: every answer is one of those documented, and at the end all agree."""
    sizes = platform.machine() == "x86_64"
    api.create(forever, cpus={"boot_vcpus": 1, "max_vcpus": 3 if sizes else 1},
               memory={"size": 64 * MIB, "hotplug_size": 256 * MIB if sizes else None})  # fmt: skip
    api.call("PUT", "vm.boot")
    seconds = 60.0 if request.config.getoption("--soak") else 3.0
    end = time.monotonic() + seconds
    names = [f"d{number}" for number in range(4)]
    answers: Counter[tuple[str, int]] = Counter()

    def client(seed: int) -> Callable[[], None]:
        chance = random.Random(seed)
        speaker = Client(api.path, timeout=60)

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
                *([("PUT", "vm.resize", {"desired_vcpus": chance.randint(1, 3)}),
                   ("PUT", "vm.resize", {"desired_ram": chance.choice((64, 192, 320)) * MIB})] if sizes else []),
            ])  # fmt: skip

        def run() -> None:
            while time.monotonic() < end:
                method, call, body = some()
                answers[call, speaker.request(method, call, body)[0]] += 1

        return run

    at_once(*(client(seed) for seed in range(8)))
    assert {status for _, status in answers} <= {200, 204, 400, 404, 405, 409}, answers
    assert {call for call, status in answers if status == 400} <= {"vm.resize"}, answers  # less than it boots with
    info = api.info()
    if info["state"] == "Created":
        assert api.put("vm.boot") == 204
        info = api.info()
    configured = {disk["id"] for disk in info["config"].get("disks", [])}
    assert configured == {name for name in info["device_tree"] if name in names}
    assert info["config"]["pvpanic"] == ("pvpanic0" in info["device_tree"])
    counted = api.call("GET", "vm.counters").keys()
    assert info["device_tree"].keys() - counted <= {"serial0"}
    assert {f"vcpu{number}" for number in range(info["config"]["cpus"]["boot_vcpus"])} <= counted
    if info["state"] == "Paused":
        assert api.put("vm.resume") == 204
    assert api.info()["state"] == "Running"
    assert api.put("vmm.shutdown") == 204
    assert api.end() == (0, "")
