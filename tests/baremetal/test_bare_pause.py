# SPDX-License-Identifier: Apache-2.0
"""A pause does not pass for the guest: its clocks stand still, and agree afterwards."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from baremetal_suite import guest
from clock_probe import Probe
from vmm_testkit.lab import in_lab

from vmmcore import DeviceConfig, Vm, VmConfig
from vmmcore.front.check import probe_kvm

pytestmark = [pytest.mark.needs_kvm, pytest.mark.arch("x86_64", reason="kvmclock is x86's")]

#: a KVM that interprets guests has no TSC for them but the host's
TSC_IS_THE_GUESTS = probe_kvm().state != "interpreted"
SECOND = 1_000_000_000


class Watched:
    """A machine with that guest; each pause is known to have been seen by it."""

    def __init__(self, tmp_path: Path) -> None:
        self.log = tmp_path / "serial.txt"
        config = VmConfig(kernel=guest("clock").build(), memory="32M", cpus=2,
                          devices=[DeviceConfig("serial", f"file={self.log}"), DeviceConfig(Probe)])
        self.vm, self.pauses = Vm(config), 0

    def __enter__(self) -> Watched:
        self.vm.boot()
        self._until(0)
        return self

    def __exit__(self, *exc: object) -> None:
        self.vm.close()

    def _until(self, seen: int) -> None:
        while self.vm.counters()["probe0"]["seen"] != seen + 1:
            if self.vm.wait(0.001) is not None:
                if "no kvmclock" in self.log.read_text():
                    pytest.skip("this KVM has no kvmclock")
                raise AssertionError(self.log.read_text())

    def pause(self, seconds: float = 0.0) -> None:
        self.vm.pause()
        time.sleep(seconds)
        self.vm.resume()
        self.pauses += 1
        if self.vm.wait(0) is None:
            self._until(self.pauses)

    def end(self) -> dict[str, list[int]]:
        """One more pause, the last; what the guest has to say."""
        self.vm.call("probe0", "finish")
        self.vm.pause()
        self.vm.resume()
        assert self.vm.wait(60) == 0
        text = self.log.read_text()
        assert "EXIT:0" in text, text
        assert f"seen {self.pauses + 1}\n" in text, "each pause is told to the guest, once"
        return {line[1]: [int(n) for n in line[2].split()] for line in re.finditer(r"^(\w+) ([\d ]+)$", text, re.M)}


def test_the_clocks_stand_still_during_a_pause(tmp_path: Path) -> None:
    with Watched(tmp_path) as watched:
        watched.pause(3)
        said = watched.end()
    kvmclock, tsc = said["leaps"]
    assert kvmclock < 1.5 * SECOND, "the guest's time leapt over the pause"
    if TSC_IS_THE_GUESTS:
        assert tsc < 1.5 * SECOND, "the guest's TSC leapt over the pause"


def test_a_thousand_pauses(tmp_path: Path) -> None:
    began = time.monotonic_ns()
    with Watched(tmp_path) as watched:
        for _ in range(100 if in_lab() else 1000):
            watched.pause()
        watched.pause(2)
        said = watched.end()
    kvmclock, tsc, pm_timer = said["elapsed"]
    assert 0 < kvmclock < time.monotonic_ns() - began - 2 * SECOND
    assert abs(kvmclock - pm_timer) < SECOND / 10
    if TSC_IS_THE_GUESTS:
        assert abs(kvmclock - tsc) < SECOND / 1000
