# SPDX-License-Identifier: Apache-2.0
"""A Vm handle that several threads use at once, with real runners."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from vmmcore import DeviceConfig, GuestError, UserError, Vm, VmConfig, VmmError

baremetal = pytest.importorskip(
    "vmm_testkit.baremetal", reason="needs the testkit: pip install -e plugins/testkit"
)

pytestmark = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm; `vmm check` says what to do"
)

FOREVER = 'int main(struct hvm_start_info *si) { (void)si; for (;;) __asm__ volatile("pause"); }'


def forever() -> VmConfig:
    return VmConfig(kernel=baremetal.BareMetal('#include "guest.h"\n' + FOREVER).build(), memory="32M")


def test_a_runner_that_does_not_answer_is_not_asked_for_ever() -> None:
    """The socket would fill, and then who asks would stand still, whatever his patience."""
    with Vm(forever()) as vm:
        vm.boot()
        os.kill(vm.pid, signal.SIGSTOP)
        for _ in range(1500):
            with pytest.raises(GuestError, match="did not answer"):
                vm.info(0.001)
        os.kill(vm.pid, signal.SIGCONT)
        assert vm.info()["state"] == "running"
        vm.pause()


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Each call in a thread of its own, begun together; what each returned, or the VmmError that it raised."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        barrier.wait(60)
        try:
            results[number] = calls[number]()
        except VmmError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "somebody still waits"
    return results


def test_the_state_is_that_of_the_last_event() -> None:
    """A pause and a resume that race end in the state that the runner has."""
    with Vm(forever()) as vm:
        vm.boot()
        for _ in range(100):
            at_once(vm.pause, vm.resume)
            assert vm.state == vm.info()["state"]


def test_events_reach_callbacks_in_their_order() -> None:
    seen: list[str] = []
    with Vm(forever()) as vm:
        vm.on_event(lambda event, data: seen.append(event))
        vm.boot()

        def cycle() -> None:
            for _ in range(50):
                try:
                    vm.pause()
                    vm.resume()
                except GuestError:
                    pass

        at_once(cycle, cycle, vm.info, lambda: [vm.info() for _ in range(50)])
        vm.shutdown()
    turns = [event for event in seen if event in ("paused", "resumed")]
    assert all(before != after for before, after in itertools.pairwise(turns))
    assert seen[0] == "created"
    assert seen[-1] == "exited"


def test_a_callback_may_ask() -> None:
    states: list[str] = []
    with Vm(forever()) as vm:
        vm.on_event(lambda event, data: states.append(vm.info()["state"]) if event == "paused" else None)
        vm.boot()
        vm.pause()
        vm.info()  # what comes after an event is not read before its callback has been called
    assert states == ["paused"]


def test_one_creates_and_the_others_are_told() -> None:
    with Vm(forever()) as vm:
        results = at_once(vm.boot, vm.boot, vm.create)
        assert [result for result in results if result is None]
        assert all(result is None or isinstance(result, GuestError) for result in results)
        assert vm.state in ("created", "running")


def test_closing_while_others_wait_and_ask() -> None:
    for _ in range(10):
        before = set(os.listdir("/proc/self/fd"))
        vm = Vm(forever())
        vm.boot()
        waited, *_ = at_once(vm.wait, vm.close, vm.close, vm.info, vm.pause, vm.shutdown)
        assert isinstance(waited, int)
        assert vm.state == "shutdown"
        vm.close()
        assert set(os.listdir("/proc/self/fd")) == before


def test_closing_while_it_is_created() -> None:
    for _ in range(5):
        before = set(os.listdir("/proc/self/fd"))
        vm = Vm(forever())
        at_once(vm.boot, vm.close)
        vm.close()
        assert vm.state in ("new", "shutdown")
        assert set(os.listdir("/proc/self/fd")) == before


def test_add_and_remove_of_one_id() -> None:
    pytest.importorskip("vmm_pvpanic", reason="needs a PCI plugin: pip install -e plugins/pvpanic")
    device = DeviceConfig("pvpanic", id="p")
    with Vm(forever()) as vm:
        vm.boot()
        there = 0
        for _ in range(25):
            results = at_once(
                lambda: vm.add_device(device), lambda: vm.remove_device("p", True), lambda: vm.add_device(device)
            )
            assert all(isinstance(one, str | UserError | GuestError) for one in results)
            there += results.count("p") - results.count("removed")
            assert there in (0, 1)
            assert [one["id"] for one in vm.devices()] == ["p"] * there
            assert [one["id"] for one in vm.info()["devices"]] == ["p"] * there
