# SPDX-License-Identifier: Apache-2.0
"""The stream of real VMs: bare-metal guests."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from eventfile import FOREVER, VMM, names_in
from nothing import Nothing
from vmm_testkit.baremetal import BareMetal
from vmmcore import DeviceConfig, Vm, VmConfig

pytestmark = pytest.mark.needs_kvm

AT_ONCE = BareMetal('#include "guest.h"\nint main(struct hvm_start_info *si) { (void)si; return 0; }')
RUN = ["vmm starting", "vm booting", "vm booted"]
END = ["vm ending", "vm shutdown", "vm deleted", "vmm shutdown"]


def test_a_run_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events"
    AT_ONCE.run(["--event-monitor", f"path={path}"]).check()
    assert names_in(path) == RUN + END


def test_a_run_to_a_pipe() -> None:
    ours, theirs = os.pipe()
    command = [VMM, "run", "--kernel", str(AT_ONCE.build()), "--memory", "32M", "--serial", "null"]
    process = subprocess.Popen([*command, "--event-monitor", f"fd={theirs}"], pass_fds=(theirs,))
    os.close(theirs)
    with open(ours) as file:
        text = file.read()  # to the end: nobody else holds the pipe open
    assert process.wait(60) == 0
    assert [json.loads(one)["event"] for one in text.strip().split("\n\n")][-1] == "shutdown"


def test_pause_reboot_and_end(tmp_path: Path) -> None:
    path = tmp_path / "events"
    stream = DeviceConfig("event-monitor", f"path={path}")
    with Vm(VmConfig(kernel=FOREVER.build(), memory="32M", devices=[stream])) as vm:
        vm.boot()
        vm.pause()
        vm.resume()
        vm.reboot()
        for event, _ in vm.events(60):
            if event == "booted" and "vm rebooted" in names_in(path):
                break
        assert [device["id"] for device in vm.info()["devices"]] == []
        vm.shutdown()
    assert names_in(path) == [*RUN, "vm pausing", "vm paused", "vm resuming", "vm resumed", "vm rebooting",
                           "vm rebooted", *END]


def test_a_device_that_comes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with Vm(VmConfig(kernel=FOREVER.build(), memory="32M",
                     devices=[DeviceConfig("event-monitor", f"path={path}")])) as vm:
        vm.boot()
        vm.add_device(Nothing, id="thing")
        vm.remove_device("thing", force=True)
        vm.shutdown()
    told = {one["event"]: one["properties"] for one in map(json.loads, path.read_text().strip().split("\n\n"))}
    assert told["device-added"] == told["device-removed"] == {"id": "thing", "bdf": "0000:00:01.0"}


def test_a_runner_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with Vm(VmConfig(kernel=FOREVER.build(), memory="32M",
                     devices=[DeviceConfig("event-monitor", f"path={path}")])) as vm:
        vm.boot()
    assert names_in(path) == [*RUN, "vm shutdown", "vm deleted", "vmm shutdown"]


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events"
    done = subprocess.run([VMM, "plan", "--json", "--kernel", str(AT_ONCE.build()), "--event-monitor", f"path={path}"],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not path.exists()
    assert "event-monitor" not in {device["type"] for device in json.loads(done.stdout)["devices"]}


def test_a_mistake_ends_the_run_with_2_and_one_line(tmp_path: Path) -> None:
    result = AT_ONCE.run(["--event-monitor", "fd=999"])
    assert result.vmm_status == 2
    assert result.stderr.startswith("vmm: error: --event-monitor fd=: 999 is not open")
    assert result.stderr.count("\n") == 1
