# SPDX-License-Identifier: Apache-2.0
"""Devices come and go while a guest runs that uses ACPI's registers as its methods would."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from vmmcore import DeviceConfig, GuestError, UserError, Vm, VmConfig, VmmError

baremetal = pytest.importorskip(
    "vmm_testkit.baremetal", reason="needs the testkit: pip install -e plugins/testkit"
)

pytestmark = [
    pytest.mark.skipif(
        not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm; `vmm check` says what to do"
    ),
    pytest.mark.arch("x86_64", reason="bare-metal guests are x86-64 programs"),
]

# It switches on what comes, and ejects what shall go without switching it off.
OBEYS = r"""
#include "guest.h"
int main(struct hvm_start_info *si) {
  (void)si;
  u64 phpr = (u64)map(PHPR, 4096, 1), ged = (u64)map(GED, 4096, 1);
  for (;;) {
    if (!(mmio_read8(ged) & 4)) continue;
    mmio_write32(phpr + 12, 0);
    u32 up = mmio_read32(phpr), down = mmio_read32(phpr + 4);
    for (u32 slot = 0; slot < 32; slot++) {
      u16 bdf = PCI_BDF(0, slot, 0);
      if (up >> slot & 1) mmio_write16(ecam(bdf, 4), 7);
      if (down >> slot & 1) {
        mmio_write32(phpr + 8, 1u << slot);
        CHECK(mmio_read32(ecam(bdf, 0)) == 0xffffffff, "slot %d is still there", slot);
      }
    }
  }
}
"""
IGNORES = 'int main(struct hvm_start_info *si) { (void)si; for (;;) __asm__ volatile("pause"); }'

# Registers, interrupts, and memory that the guest sees: a slot of KVM's.
DEVICE = """
from vmmcore import VirtioDevice

class Lamp(VirtioDevice):
    virtio_id = 63
    queue_sizes = (64, 64)

    def configure(self):
        self.add_shared_memory(1, 1 << 20)
"""


def config(source: str, **more: Any) -> VmConfig:
    defines: dict[str, str] = {}
    if "PHPR" in source:
        with Vm(config(IGNORES)) as vm:
            platform = vm.plan["platform"]
        defines = {"PHPR": f"{platform['pci_hotplug']['address']}ul", "GED": f"{platform['ged']['address']}ul"}
    text = source if "guest.h" in source else '#include "guest.h"\n' + source
    return VmConfig(kernel=baremetal.BareMetal(text, defines=defines).build(), memory="32M", **more)


@pytest.fixture
def lamp(tmp_path: Path) -> str:
    path = tmp_path / "lamp.py"
    path.write_text(DEVICE)
    return str(path)


def plug(vm: Vm, file: str, name: str) -> str:
    return vm.add_device(DeviceConfig("--plugin", f"{file},id={name}"))


def states(vm: Vm) -> dict[str, str]:
    return {device["id"]: device["state"] for device in vm.info()["devices"]}


def in_process(vm: Vm, what: str) -> int:
    return len(os.listdir(f"/proc/{vm.pid}/{what}"))


def until(vm: Vm, wanted: str) -> None:
    """Wait for an event."""
    assert any(event == wanted for event, _ in vm.events(20)), f"no {wanted}"


def test_six_hundred_times_leave_nothing(lamp: str, capfd: pytest.CaptureFixture[str]) -> None:
    """More often than KVM has memory slots, and there is room for BARs."""
    with Vm(config(OBEYS)) as vm:
        vm.boot()
        plug(vm, lamp, "first")
        assert vm.remove_device("first", wait=20) == "removed"
        before = {what: in_process(vm, what) for what in ("fd", "task")}
        names = states(vm)
        counters = set(vm.counters())
        for n in range(600):
            assert plug(vm, lamp, "lamp") == "lamp"
            assert states(vm)["lamp"] == "activated"
            if n % 50 == 0:
                assert vm.remove_device("lamp", force=True) == "removed"
            else:
                assert vm.remove_device("lamp", wait=20) == "removed"
        assert states(vm) == names
        assert set(vm.counters()) == counters
        assert {what: in_process(vm, what) for what in ("fd", "task")} == before
    assert capfd.readouterr().err == ""


def test_what_the_guest_ignores_is_pending(lamp: str) -> None:
    with Vm(config(IGNORES)) as vm:
        vm.boot()
        plug(vm, lamp, "lamp")
        slot = next(d["slot"] for d in vm.plan["devices"] if d["id"] == "lamp")
        for _ in range(2):
            assert vm.remove_device("lamp") == "pending"
            assert states(vm)["lamp"] == "removing"
        with pytest.raises(UserError, match="lamp"):
            plug(vm, lamp, "lamp")
        other = plug(vm, lamp, "other")
        assert next(d["slot"] for d in vm.plan["devices"] if d["id"] == other) != slot
        vm.pause()
        vm.resume()
        assert states(vm)["lamp"] == "removing"
        assert vm.remove_device("lamp", force=True) == "removed"
        assert "lamp" not in states(vm)
        with pytest.raises(GuestError, match="lamp"):
            vm.remove_device("lamp")
        assert plug(vm, lamp, "lamp") == "lamp"


def test_a_reboot_keeps_what_is_plugged_and_ends_what_is_pending(lamp: str) -> None:
    events = []
    with Vm(config(IGNORES)) as vm:
        vm.on_event(lambda event, data: events.append((event, data.get("device"))))
        vm.boot()
        for name in ("stays", "goes"):
            plug(vm, lamp, name)
        assert vm.remove_device("goes") == "pending"
        before = in_process(vm, "fd")
        vm.reboot()
        until(vm, "device-removed")
        until(vm, "booted")
        assert events.index(("device-remove-pending", "goes")) < events.index(("device-removed", "goes"))
        assert "stays" in states(vm)
        assert "goes" not in states(vm)
        assert in_process(vm, "fd") < before
        assert plug(vm, lamp, "goes") == "goes"


def test_before_the_first_instruction_nobody_is_asked(lamp: str) -> None:
    with Vm(config(IGNORES)) as vm:
        vm.create()
        plug(vm, lamp, "lamp")
        assert vm.remove_device("lamp") == "removed"
        vm.boot()
        assert "lamp" not in states(vm)


def test_a_paused_guest_ejects_when_it_goes_on(lamp: str) -> None:
    with Vm(config(OBEYS)) as vm:
        vm.boot()
        for _ in range(20):
            plug(vm, lamp, "lamp")
            vm.pause()
            assert vm.remove_device("lamp") == "pending"
            assert states(vm)["lamp"] == "removing"
            vm.resume()
            assert any("lamp" not in states(vm) for _ in vm.events(20))
            vm.pause()
            plug(vm, lamp, "lamp")  # found when it goes on
            vm.resume()
            assert vm.remove_device("lamp", wait=20) == "removed"


def test_racing_requests_agree_with_the_machine(lamp: str) -> None:
    """Threads that add, remove, pause and reboot: each answer is one that was true, and the end is consistent."""
    problems: list[BaseException] = []

    def hurry(seed: int) -> None:
        try:
            for n in range(25):
                kind = (n + seed) % 5
                try:
                    if kind in (0, 1):
                        plug(vm, lamp, f"lamp{seed % 2}")
                    elif kind == 2:
                        assert vm.remove_device(f"lamp{seed % 2}", force=n % 2 == 0) in ("removed", "pending")
                    elif kind == 3:
                        vm.pause()
                        vm.resume()
                    elif n % 10 == 4:
                        vm.reboot()
                except VmmError as error:
                    if any(word in str(error) for word in ("\n", "did not answer", "Error:", "ended")):
                        raise AssertionError(f"not a refusal: {error}") from error
        except BaseException as error:
            problems.append(error)

    with Vm(config(OBEYS)) as vm:
        vm.boot()
        threads = [threading.Thread(target=hurry, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        assert not problems, problems[0]
        if vm.info()["state"] == "paused":
            vm.resume()
        for name, state in states(vm).items():
            if name.startswith("lamp"):
                assert state in ("activated", "removing")
                vm.remove_device(name, force=True)
        for name in ("lamp0", "lamp1"):
            assert plug(vm, lamp, name) == name
            assert vm.remove_device(name, wait=20) == "removed"
        planned = {device["id"] for device in vm.plan["devices"]} - {"lamp0", "lamp1"}
        assert planned == set(states(vm))


TROUBLE = """
from vmmcore import Option, Options, PciDevice


class Trouble(PciDevice):
    vendor_id, device_id = 0x1234, 0x0050

    class OPTIONS(Options):
        when = Option(str, "", "the method that fails")

    def realize(self):
        self.add_bar(0, 4096, lambda offset, size: 0, lambda offset, size, value: None)

    def activate(self):
        self.fail("activate")

    def remove(self):
        self.fail("remove")

    def fail(self, method):
        if self.options["when"] == method:
            raise OSError(f"no {method} today")
"""


def test_a_device_that_fails_leaves_nothing_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its own code may; the VM goes on, and the id is free."""
    file = tmp_path / "trouble.py"
    file.write_text(TROUBLE)

    def add(vm: Vm, when: str) -> None:
        assert vm.add_device(DeviceConfig("--plugin", f"{file},id=it,when={when}")) == "it"

    with Vm(config(OBEYS)) as vm:
        vm.boot()
        add(vm, "")
        assert vm.remove_device("it", wait=20) == "removed"
        fds, there = in_process(vm, "fd"), states(vm)
        for _ in range(3):
            with pytest.raises(GuestError, match="no activate today"):
                add(vm, "activate")
            assert states(vm) == there
            for how in ({"force": True}, {"wait": 20}):
                add(vm, "remove")
                assert vm.remove_device("it", **how) == "removed"  # type: ignore[arg-type]
                assert states(vm) == there
        assert in_process(vm, "fd") == fds
        add(vm, "remove")
        vm.reboot()
        until(vm, "rebooted")
        assert states(vm)["it"] == "activated"
    told = capfd.readouterr().err.splitlines()
    assert len(told) >= 7
    assert all("it: remove: OSError: no remove today" in line for line in told), told


def test_what_the_guest_has_not_seen_yet_needs_no_consent(lamp: str) -> None:
    """It is behind one that was taken by force and that the guest holds on to."""
    with Vm(config(IGNORES)) as vm:
        vm.boot()
        plug(vm, lamp, "first")
        assert vm.remove_device("first", force=True) == "removed"
        plug(vm, lamp, "second")
        assert vm.remove_device("second") == "removed"
        assert "second" not in states(vm)
