# SPDX-License-Identifier: Apache-2.0
"""The Vm handle with real runners: bare-metal guests, so that any /dev/kvm will do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from vmmcore import GuestError, UserError, Vm, VmConfig
from vmmcore.front.check import probe_kvm

baremetal = pytest.importorskip(
    "vmm_testkit.baremetal", reason="needs the testkit: pip install -e plugins/testkit"
)

pytestmark = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm; `vmm check` says what to do"
)

FOREVER = 'int main(struct hvm_start_info *si) { (void)si; for (;;) __asm__ volatile("pause"); }'
AT_ONCE = "int main(struct hvm_start_info *si) { (void)si; return 0; }"


def guest(source: str, **config: Any) -> VmConfig:
    return VmConfig(
        kernel=baremetal.BareMetal('#include "guest.h"\n' + source).build(), memory="32M", **config
    )


def left_behind(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def ids(vm: Vm) -> list[str]:
    return [device["id"] for device in vm.info()["devices"]]


def test_life_cycle_leaves_nothing() -> None:
    before = fds()
    with Vm(guest(FOREVER)) as vm:
        assert vm.state == "new"
        vm.create()
        assert vm.state == "created"
        assert vm.info()["state"] == "created"
        pid = vm.pid
        vm.boot()
        assert vm.state == vm.info()["state"] == "running"
        vm.pause()
        assert vm.state == vm.info()["state"] == "paused"
        vm.save()
        vm.resume()
        assert vm.info()["state"] == "running"
        assert "vcpu0" in vm.counters()
        vm.reboot()
        assert vm.wait(0.0) is None
        with pytest.raises(GuestError, match="boot"):
            vm.boot()
        assert vm.shutdown() == 0
        assert vm.state == "shutdown"
        with pytest.raises(GuestError, match="has ended"):
            vm.pause()
    assert not left_behind(pid)
    assert fds() == before


def test_guest_that_ends_by_itself() -> None:
    seen: list[str] = []
    with Vm(guest(AT_ONCE)) as vm:
        vm.on_event(lambda event, data: seen.append(event))
        vm.boot()
        assert vm.wait(60) == 0
        assert vm.wait() == 0
        assert [event for event, _ in vm.events()] == seen
    assert seen[-1] == "exited"
    assert seen.count("exited") == 1


def test_closing_kills_and_reaps() -> None:
    vm = Vm(guest(FOREVER))
    vm.boot()
    pid = vm.pid
    assert vm.close() == 128 + signal.SIGKILL
    assert not left_behind(pid)
    assert vm.state == "shutdown"


def test_a_killed_runner_is_noticed() -> None:
    with Vm(guest(FOREVER)) as vm:
        vm.boot()
        os.kill(vm.pid, signal.SIGKILL)
        assert vm.wait(60) == 128 + signal.SIGKILL
        with pytest.raises(GuestError, match="ended with status 137"):
            vm.info()


def test_requests_from_other_threads_while_one_waits() -> None:
    with Vm(guest(FOREVER)) as vm:
        vm.boot()
        waiter = threading.Thread(target=vm.wait)
        waiter.start()
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                for _ in range(20):
                    vm.info()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors
        vm.shutdown()
        waiter.join(60)
        assert not waiter.is_alive()


def test_several_at_once() -> None:
    with Vm(guest(FOREVER, id="a")) as a, Vm(guest(FOREVER, id="b")) as b:
        a.boot()
        b.boot()
        a.pause()
        assert (a.info()["state"], b.info()["state"]) == ("paused", "running")
        assert a.pid != b.pid


def test_the_runner_does_not_outlive_us(tmp_path: Path) -> None:
    kernel = guest(FOREVER).kernel
    program = f"""
import os
from vmmcore import Vm, VmConfig
vm = Vm(VmConfig(kernel={kernel!r}, memory="32M"))
vm.boot()
print(vm.pid, os.pidfd_open(vm.pid) > 0, flush=True)
input()
os._exit(9)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[0])
        pidfd = os.pidfd_open(pid)
        parent.communicate(b"\n")
        import select

        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(60_000), "the runner is still there"
        os.close(pidfd)


def test_errors_before_the_runner_leave_nothing() -> None:
    before = fds()
    vm = Vm(guest(AT_ONCE, devices=["no-such-device"]))
    with pytest.raises(UserError, match="no-such-device"):
        vm.create()
    with pytest.raises(GuestError, match="not created"):
        vm.pause()
    vm.close()
    assert fds() == before


def test_a_device_class_of_the_callers_own(tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(f"""
from vmmcore import Device, DeviceConfig, Vm, VmConfig

class Doorbell(Device):
    def realize(self):
        self.rung = self.options["start"]
        self.machine.pio.add(0x510, 1, write=self.ring)
    def ring(self, offset, size, value):
        self.rung += value
    def counters(self):
        return {{"rung": self.rung}}

if __name__ == "__main__":
    bell = DeviceConfig(Doorbell, {{"start": 100}})
    config = VmConfig(kernel={guest(RING).kernel!r}, memory="32M", devices=[bell])
    with Vm(config) as vm:
        vm.boot()
        while vm.counters()["doorbell0"]["rung"] == 100:
            pass
        print(vm.counters()["doorbell0"]["rung"])
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("107\n", "")


RING = 'int main(struct hvm_start_info *si) { (void)si; outb(0x510, 7); for (;;) __asm__ volatile("pause"); }'


def test_hot_plug_and_unplug() -> None:
    pytest.importorskip("vmm_pvpanic", reason="needs a PCI plugin: pip install -e plugins/pvpanic")
    with Vm(guest(FOREVER)) as vm:
        vm.boot()
        before = fds()
        name = vm.add_device("pvpanic")
        assert name in ids(vm)
        with pytest.raises(UserError, match="once"):
            vm.add_device("pvpanic")
        vm.remove_device(name, force=True)
        assert name not in ids(vm)
        with pytest.raises(GuestError, match=name):
            vm.remove_device(name, force=True)
        assert vm.add_device("pvpanic", id="again") == "again"
        assert fds() == before


def test_a_device_that_fails_to_build_leaves_its_place_free(tmp_path: Path) -> None:
    script = tmp_path / "picky.py"
    script.write_text(f"""
import os
from vmmcore import GuestError, PciDevice, Vm, VmConfig

class Picky(PciDevice):
    def realize(self):
        self.add_bar(0, 1 << 28)  # the 32-bit window has no room for three of them
        self.add_msix(1, self.options["vectors"])

def files(vm):
    return len(os.listdir(f"/proc/{{vm.pid}}/fd"))

if __name__ == "__main__":
    with Vm(VmConfig(kernel={guest(FOREVER).kernel!r}, memory="32M")) as vm:
        vm.boot()
        before = files(vm)
        for _ in range(4):
            try:
                vm.add_device(Picky, {{"vectors": 0}})
            except GuestError as error:
                assert "MSI-X with 0 vectors" in str(error), error
            else:
                raise AssertionError("built")
        assert files(vm) == before
        for _ in range(4):
            vm.remove_device(vm.add_device(Picky, {{"vectors": 2}}), force=True)
        assert files(vm) == before
        print("fine")
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("fine\n", "")


def test_check_runs_a_guest() -> None:
    status = probe_kvm()
    assert status.state in ("usable", "interpreted")
    assert status.usable == (status.mend == "")


def test_a_plugin_observes(tmp_path: Path) -> None:
    (tmp_path / "watch.py").write_text(
        "from vmmcore.hooks import hookimpl\nAPI = (1, 0)\n"
        "@hookimpl\ndef vmm_vm_event(vm_id, event, data):\n    print('SAW', vm_id, event, flush=True)\n"
    )
    vmm = Path(sys.executable).with_name("vmm")
    done = subprocess.run(
        [
            str(vmm),
            "run",
            "--kernel",
            str(guest(AT_ONCE).kernel),
            "--memory",
            "32M",
            "--serial",
            "off",
            "--name",
            "x",
            "--plugin",
            f"{tmp_path}/watch.py",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "SAW x exited" in done.stdout
