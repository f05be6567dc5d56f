# SPDX-License-Identifier: Apache-2.0
"""A network device in a VM of its own process: what is there while it runs, and what is left when it ends."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from vmmcore import Vm, VmConfig
from vmmcore.front.config import DeviceConfig

baremetal = pytest.importorskip("vmm_testkit.baremetal", reason="needs the testkit: pip install -e plugins/testkit")

pytestmark = pytest.mark.needs_kvm

FOREVER = '#include "guest.h"\nint main(struct hvm_start_info *si) { (void)si; for (;;) __asm__ volatile("pause"); }'
VMM = str(Path(sys.executable).parent / "vmm")


def vm_with(text: str) -> Vm:
    kernel = baremetal.BareMetal(FOREVER).build()
    return Vm(VmConfig(kernel=kernel, memory="32M", devices=[DeviceConfig("net", text)]))


def passts() -> set[int]:
    found = set()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if Path(f"/proc/{name}/comm").read_text().startswith("passt"):
                found.add(int(name))
        except OSError:
            pass
    return found


def wait_end(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 20)[0], f"process {pid} still runs"
    finally:
        os.close(fd)


def end(vm: Vm) -> None:
    assert vm.shutdown() == 0


def kill(vm: Vm) -> None:
    os.kill(vm.pid, signal.SIGKILL)
    vm.wait(20)


@pytest.mark.parametrize("how", [end, kill])
def test_a_tap_lives_as_long_as_the_vm(tap_name: str, how: Callable[[Vm], None]) -> None:
    net = Path(f"/sys/class/net/{tap_name}")
    with vm_with(f"tap={tap_name},num_queues=4") as vm:
        vm.boot()
        assert net.exists()
        vm.reboot()
        for event, _ in vm.events(30):
            if event == "rebooted":
                break
        else:
            raise AssertionError("no reboot")
        assert net.exists()
        assert set(vm.counters()["net0"]) >= {"rx_bytes", "rx_frames", "tx_bytes", "tx_frames"}
        vm.call("net0", "set_link", up=False)
        vm.call("net0", "announce")
        vm.pause()
        vm.resume()
        vm.reload_device("net0")
        assert net.exists()
        how(vm)
        assert not net.exists()


@pytest.mark.parametrize("how", [end, kill])
def test_the_helper_lives_as_long_as_the_vm(how: Callable[[Vm], None]) -> None:
    if shutil.which("passt") is None:
        pytest.skip("no passt; apt-get install passt")
    before = passts()
    with vm_with("user") as vm:
        vm.boot()
        started = passts() - before
        assert started
        vm.reboot()
        for event, _ in vm.events(30):
            if event == "rebooted":
                break
        assert passts() >= started, "a reboot keeps it"
        how(vm)
        for pid in started:
            wait_end(pid)


def test_hot_plug_and_removal(tap_name: str) -> None:
    with vm_with("tap") as vm:
        vm.boot()
        for _ in range(3):
            assert vm.add_device("net", f"tap={tap_name},id=extra") == "extra"
            assert Path(f"/sys/class/net/{tap_name}").exists()
            vm.remove_device("extra", force=True)
            assert not Path(f"/sys/class/net/{tap_name}").exists()
        assert vm.shutdown() == 0


@pytest.mark.parametrize("arguments", [
    ["--net", "tap=lo"], ["--net", "tap=averyverylongname"], ["--net", "tap={tap}", "--net", "tap={tap},mac=1"],
    ["--net", "tap={tap}", "--net", "fd=[999]"], ["--net", "tap={tap},num_queues=5"],
    ["--net", "user", "--net", "macvtap=nosuchif"], ["--net", "tap={tap}", "--disk", "/nonexistent/disk"],
])
def test_bad_input_leaves_nothing(tap_name: str, arguments: list[str]) -> None:
    before, helpers = set(os.listdir("/sys/class/net")), passts()
    words = [word.format(tap=tap_name) for word in arguments]
    done = subprocess.run([VMM, "run", "--kernel", baremetal.BareMetal(FOREVER).build(), *words], capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and ("--net" in done.stderr or "--disk" in done.stderr)
    assert set(os.listdir("/sys/class/net")) == before
    for pid in passts() - helpers:
        wait_end(pid)


def test_a_saved_plan_makes_its_tap_when_it_runs(tap_name: str, tmp_path: Path) -> None:
    kernel = baremetal.BareMetal(FOREVER).build()
    plan = tmp_path / "plan.json"
    text = subprocess.run([VMM, "plan", "--kernel", kernel, "--net", f"tap={tap_name},ip=10.213.11.1", "--json"],
                          capture_output=True, text=True, check=True).stdout
    plan.write_text(text)
    assert not Path(f"/sys/class/net/{tap_name}").exists()
    with subprocess.Popen([VMM, "run", "--plan", str(plan)], stderr=subprocess.PIPE, text=True) as process:
        try:
            for _ in range(2000):
                if Path(f"/sys/class/net/{tap_name}").exists():
                    break
                select.select([], [], [], 0.01)
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
            else:
                raise AssertionError("no TAP")
        finally:
            process.kill()
    text = subprocess.run([VMM, "plan", "--kernel", kernel, "--net", "user", "--json"], capture_output=True, text=True,
                          check=True).stdout
    plan.write_text(text)
    done = subprocess.run([VMM, "run", "--plan", str(plan)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "--net: a saved plan cannot" in done.stderr
