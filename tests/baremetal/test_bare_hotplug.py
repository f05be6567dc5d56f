# SPDX-License-Identifier: Apache-2.0
"""CPUs and memory plugged into a bare-metal guest by its VMM, taken back, and there after a reboot."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from baremetal_suite import guest

from vmmcore import Vm, VmConfig
from vmmcore.errors import GuestError
from vmmcore.front.config import DeviceConfig

pytestmark = pytest.mark.needs_kvm

MIB = 1 << 20
BOOT = 64 * MIB
BLOCK = 128 * MIB
FOREVER = '#include "guest.h"\nint main(struct hvm_start_info *si) { (void)si; for (;;) pause(); }'


def config(kernel: Path | None, **more: object) -> VmConfig:
    values: dict[str, object] = {"cpus": "boot=1,max=3", "memory": "64M,hotplug_size=1G",
                                 "devices": [DeviceConfig("serial", "null")], **more}
    return VmConfig(kernel=kernel, **values)  # type: ignore[arg-type]


@contextmanager
def machine(**more: object) -> Iterator[Vm]:
    """A guest that does nothing, running."""
    from vmm_testkit.baremetal import BareMetal

    with Vm(config(BareMetal(FOREVER).build(), **more)) as vm:
        vm.boot()
        yield vm


def until(vm: Vm, event: str, **wanted: object) -> dict[str, object]:
    for name, data in vm.events(timeout=60):
        if name == event and wanted.items() <= data.items():
            return data
    raise AssertionError(f"no event {event} {wanted}")


def threads(vm: Vm) -> list[str]:
    """Names of the vCPUs' threads."""
    names = []
    for task in Path(f"/proc/{vm.pid}/task").iterdir():
        with suppress(OSError):  # it has ended in the meantime
            names.append((task / "comm").read_text().strip())
    return sorted(name for name in names if name.startswith("vcpu"))


def wait_threads(vm: Vm, count: int) -> None:
    """Wait until there are so many: who waits for a thread to end may see it a moment longer."""
    give_up = time.monotonic() + 20
    while (found := threads(vm)) != [f"vcpu{n}" for n in range(count)]:
        assert time.monotonic() < give_up, found
        time.sleep(0.01)


def test_guest_gets_cpus_and_memory_and_gives_cpus_back(tmp_path: Path) -> None:
    where = Vm(config(guest("hotplug", CPU_AT=0, MEMORY_AT=0).build())).plan["platform"]
    kernel = guest("hotplug", CPU_AT=f"{where['cpu_hotplug']['address']:#x}ul",
                   MEMORY_AT=f"{where['memory_hotplug']['address']:#x}ul").build()
    path = str(tmp_path / "serial")
    os.mkfifo(path)
    wanted = config(kernel, devices=[DeviceConfig("serial", {"file": path})])
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), errors="replace") as text, Vm(wanted) as vm:
        vm.create()
        os.set_blocking(text.fileno(), True)

        def line(wanted: str) -> None:
            for found in text:
                if found.strip() == wanted:
                    return
                assert "check failed" not in found, found
            raise AssertionError(f"the guest never said {wanted}")

        vm.boot()
        line("NMI")
        vm.nmi()
        line("PLUG")
        vm.resize(cpus=3, memory=BOOT + BLOCK)
        line("MORE")
        vm.resize(memory=BOOT + 3 * BLOCK)
        info = vm.info()
        assert (info["vcpus"], info["max_vcpus"]) == (3, 3)
        assert info["memory"] == info["memory_actual"] == BOOT + 3 * BLOCK
        wait_threads(vm, 3)
        line("UNPLUG")
        vm.resize(cpus=1)
        until(vm, "cpus-resized", cpus=1, pending=0)
        assert vm.info()["vcpus"] == 1
        wait_threads(vm, 1)
        line("AGAIN")
        vm.resize(cpus=2)
        line("RESET")
        line("EXIT:0")
        assert vm.wait(30) == 0


def test_removal_that_the_guest_ignores_stays_pending_and_can_be_taken_back() -> None:
    with machine() as vm:
        vm.resize(cpus=3)
        assert until(vm, "cpus-resized")["cpus"] == 3
        vm.resize(cpus=1)
        assert vm.info()["vcpus"] == len(threads(vm)) == 3
        vm.resize(cpus=2)
        assert until(vm, "cpus-resized") == {"cpus": 3, "pending": 1}
        vm.reboot()
        until(vm, "rebooted")
        assert vm.info()["vcpus"] == 2, "a reboot gives the guest what was asked for"


def test_memory_grows_at_once_and_shrinks_at_the_reboot() -> None:
    with machine() as vm:
        vm.resize(memory=BOOT + 2 * BLOCK)
        assert until(vm, "memory-resized") == {"memory": BOOT + 2 * BLOCK, "memory_actual": BOOT + 2 * BLOCK}
        vm.resize(memory=BOOT + BLOCK)
        assert vm.info()["memory"] == BOOT + 2 * BLOCK
        vm.reboot()
        until(vm, "rebooted")
        assert vm.info()["memory"] == BOOT + BLOCK
        for step in range(2, 9):
            vm.resize(memory=BOOT + step * BLOCK)
        assert vm.info()["memory"] == BOOT + 8 * BLOCK


def test_slots_of_memory_run_out_and_a_reboot_makes_them_one() -> None:
    with machine(memory="64M,hotplug_size=2G") as vm:
        for step in range(1, 9):
            vm.resize(memory=BOOT + step * BLOCK)
        with pytest.raises(GuestError, match=r"all slots .* are in use"):
            vm.resize(memory=BOOT + 9 * BLOCK)
        vm.reboot()
        until(vm, "rebooted")
        vm.resize(memory=BOOT + 9 * BLOCK)
        assert vm.info()["memory"] == BOOT + 9 * BLOCK


@pytest.mark.parametrize(("wanted", "words"), [
    ({"cpus": 0}, "cpus: 0 is not 1 to 3"),
    ({"cpus": 4}, "cpus: 4 is not 1 to 3.*max="),
    ({"memory": BOOT - 1}, "memory: .* is not 67108864 to"),
    ({"memory": BOOT + (1 << 40)}, "memory: .* is not 67108864 to"),
    ({"memory": (1 << 63) - 1}, "memory: .* is not 67108864 to"),
    ({"memory": BOOT + MIB}, "no multiple of 128 MiB"),
    ({"balloon": 0}, "balloon: this VM has none"),
    ({"cpus": 3, "memory": 1}, "memory: 1 bytes is not"),
])
def test_what_cannot_be_says_why_and_changes_nothing(wanted: dict[str, int], words: str) -> None:
    with machine() as vm:
        before = vm.info()
        with pytest.raises(GuestError, match=words):
            vm.resize(**wanted)
        assert vm.info() == before


def test_machines_without_room() -> None:
    with machine(cpus=1, memory="64M") as vm:
        with pytest.raises(GuestError, match="max="):
            vm.resize(cpus=2)
        with pytest.raises(GuestError, match="hotplug_size="):
            vm.resize(memory=2 * BOOT)
        with pytest.raises(GuestError, match="no memory zone 'a'"):
            vm.resize_zone("a", BOOT)
        vm.resize(cpus=1, memory=BOOT)


def test_two_hundred_resizes_leave_nothing_behind() -> None:
    def held(vm: Vm) -> tuple[int, int]:
        return len(os.listdir(f"/proc/{vm.pid}/fd")), len(threads(vm))

    with machine() as vm:
        vm.resize(cpus=3)
        vm.reboot()
        assert vm.info()["vcpus"] == 3
        before = held(vm)
        for n in range(200):
            vm.resize(cpus=1 + n % 3)
            if n % 20 == 0:
                vm.pause()
                vm.resize(cpus=3)
                vm.resume()
        vm.resize(cpus=3)
        assert held(vm) == before


def test_affinity_holds_for_a_cpu_that_comes_later() -> None:
    host = sorted(os.sched_getaffinity(0))[-1]
    with machine(cpus=f"boot=1,max=3,affinity=[2@[{host}]]") as vm:
        vm.resize(cpus=3)
        for task in Path(f"/proc/{vm.pid}/task").iterdir():
            if (task / "comm").read_text().strip() == "vcpu2":
                assert os.sched_getaffinity(int(task.name)) == {host}
                return
    raise AssertionError("no thread vcpu2")


def resident(vm: Vm) -> int:
    return int(Path(f"/proc/{vm.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Resize(threading.Thread):
    """vm.resize() in a thread, which has come to the point where memory is populated."""

    def __init__(self, vm: Vm, memory: int) -> None:
        super().__init__(daemon=True)
        self.vm, self.memory, self.refused = vm, memory, ""
        before = resident(vm)
        self.start()
        while self.is_alive() and resident(vm) < before + 4 * MIB:
            pass

    def run(self) -> None:
        try:
            self.vm.resize(memory=self.memory)
        except GuestError as error:
            self.refused = str(error)


def test_memory_that_is_populated_first_holds_nobody_up() -> None:
    with machine(memory="64M,hotplug_size=2G,prefault=on") as vm:
        overtaken, size = False, BOOT
        for _ in range(6):  # it may be through before the pause is, on a host that is busy elsewhere
            size += 2 * BLOCK
            resize = Resize(vm, size)
            vm.pause()
            assert vm.info()["state"] == "paused"
            overtaken = resize.is_alive()
            vm.resume()
            resize.join(60)
            assert not resize.is_alive()
            assert not resize.refused
            assert vm.info()["memory"] == size <= resident(vm)
            if overtaken:
                break
        assert overtaken


def test_a_reboot_while_memory_is_populated() -> None:
    with machine(memory="64M,hotplug_size=2G,prefault=on") as vm:
        for _ in range(4):
            before, slots = vm.info()["memory"], vm.info()["memory_slots"]
            resize, second = Resize(vm, before + 2 * BLOCK), Resize(vm, before + BLOCK)
            vm.reboot()
            resize.join(60)
            second.join(60)
            assert "rebooted" in resize.refused or not resize.refused
            assert second.refused or not resize.refused or vm.info()["memory"] == before + BLOCK
            assert vm.info()["memory"] in (before, before + BLOCK, before + 2 * BLOCK)
            assert (vm.info()["memory"] == before) == bool(resize.refused and second.refused)
            assert vm.info()["memory_slots"] in (slots, slots + 1)
            if vm.info()["memory"] == before:
                break
        vm.resize(memory=vm.info()["memory"] + BLOCK)


def test_an_end_while_memory_is_populated() -> None:
    with machine(memory="64M,hotplug_size=1G,prefault=on") as vm:
        resize = Resize(vm, BOOT + 4 * BLOCK)
        vm.shutdown()
        assert vm.wait() == 0
        resize.join(60)
        assert not resize.is_alive()


@pytest.mark.parametrize("memory", ["64M,hotplug_size=1G", "64M,hotplug_size=1G,prefault=on"])
def test_one_part_that_cannot_be_leaves_the_others_as_they_were(memory: str) -> None:
    with machine(memory=memory) as vm:
        vm.resize(cpus=2)
        before = vm.info()
        bytes_now = int(Path(f"/proc/{vm.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        # Descriptors are what vCPUs need, addresses what memory does.
        for what, now in (resource.RLIMIT_NOFILE, 3), (resource.RLIMIT_AS, bytes_now + BLOCK // 2):
            usual = resource.prlimit(vm.pid, what)
            resource.prlimit(vm.pid, what, (now, usual[1]))
            with pytest.raises(GuestError):
                vm.resize(cpus=3, memory=BOOT + BLOCK)
            resource.prlimit(vm.pid, what, usual)
            assert vm.info() == before
            wait_threads(vm, 2)
        vm.resize(cpus=3, memory=BOOT + BLOCK)
        info = vm.info()
        assert (info["vcpus"], info["memory"]) == (3, BOOT + BLOCK)


def test_zones_are_backed_as_they_say(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(bytes(16 * MIB))
    zones = [f"id=a,size=16M,file={tmp_path}/ram,shared=on", "id=b,size=32M,shared=on", "id=c,size=8M,host_numa_node=0",
             f"id=d,size=8M,file={tmp_path}/ram", "id=e,size=8M,file=/dev/shm"]
    with machine(memory="size=0", memory_zones=zones) as vm:
        assert vm.info()["memory"] == 72 * MIB
        maps = Path(f"/proc/{vm.pid}/maps").read_text().splitlines()
        numa = Path(f"/proc/{vm.pid}/numa_maps").read_text() if os.path.exists("/proc/self/numa_maps") else ""

        def mapped(size: int, mode: str, name: str) -> bool:
            for line in maps:
                words = line.split(maxsplit=5)
                first, last = (int(end, 16) for end in words[0].split("-"))
                if last - first == size and words[1] == mode and name in (words[5] if len(words) > 5 else ""):
                    return True
            return False

        assert mapped(16 * MIB, "rw-s", "/ram")
        assert mapped(32 * MIB, "rw-s", "vmm-ram")
        assert mapped(8 * MIB, "rw-p", "/ram")
        assert mapped(8 * MIB, "rw-p", "/dev/shm")
        assert "bind:0" in numa or not numa
        vm.reboot()
        assert vm.info()["memory"] == 72 * MIB
    # the guest's kernel was loaded into the first zone, over its end into the second where it is larger
    assert any((tmp_path / "ram").read_bytes())


def test_saved_plan_with_zones_runs(tmp_path: Path) -> None:
    from vmm_testkit.baremetal import BareMetal

    from vmmcore import plan as planfile

    zones = ["id=a,size=32M,file=/dev/shm,shared=on", "id=b,size=32M"]
    kernel = BareMetal('#include "guest.h"\nint main(struct hvm_start_info *si) { (void)si; return 0; }').build()
    plan = Vm(config(kernel, cpus=1, memory="size=0", memory_zones=zones)).plan
    (tmp_path / "plan.json").write_text(planfile.to_json(plan))
    vmm = Path(sys.executable).parent / "vmm"
    done = subprocess.run([vmm, "run", "--plan", tmp_path / "plan.json"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_device_in_another_segment() -> None:
    config = {"platform": "num_pci_segments=2", "pci_segments": ["pci_segment=1,mmio64_aperture_weight=2"],
              "devices": [DeviceConfig("serial", "null"), DeviceConfig("rng", "pci_segment=1,slot=3")]}
    with machine(**config) as vm:
        assert {"id": "rng0", "type": "rng", "bdf": "0001:00:03.0", "removing": False} in vm.devices()
        assert "rng0" in [device["id"] for device in vm.info()["devices"]]
