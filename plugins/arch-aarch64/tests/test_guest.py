# SPDX-License-Identifier: Apache-2.0
"""What a stock Debian kernel sees of the machine, and what people see of a guest that KVM gave up on."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.firmware import CODE, MISSING
from vmm_testkit.guest import DebianGuest, default_vmm
from vmmcore import GuestError, Vm, VmConfig

pytestmark = [pytest.mark.linux_guest, pytest.mark.arch("aarch64", reason="the AArch64 machine")]


def test_topology_and_affinity(debian_guest: Callable[..., DebianGuest]) -> None:
    guest = debian_guest(cpus="boot=2,max=4,topology=1:1:2:2")  # two clusters of one CPU in the first socket
    assert guest.check("nproc") == "2\n"
    assert guest.check("cat /sys/devices/system/cpu/cpu1/topology/cluster_cpus_list") == "1\n"
    assert guest.check("cat /sys/devices/system/cpu/cpu1/topology/package_cpus_list") == "0-1\n"
    assert guest.check("ls -d /proc/device-tree/cpus/cpu@*").split()[-1].endswith("cpu@1")
    assert guest.poweroff() == 0


@pytest.mark.parametrize("features", ["", "no-sve,no-pmu,no-pauth"])
def test_features(debian_guest: Callable[..., DebianGuest], features: str) -> None:
    with open("/proc/cpuinfo") as file:
        host = file.read().split()
    guest = debian_guest(cpus=f"boot=1,features=[{features}]")
    found = guest.check("cat /proc/cpuinfo").split()
    for name in ("sve", "paca"):
        assert (name in found) == (name in host and not features)
    pmu = guest.check("ls /sys/bus/event_source/devices").split()
    if features:
        assert not [name for name in pmu if "pmuv3" in name]
    assert guest.poweroff() == 0


def test_random_bytes_differ_from_boot_to_boot(debian_guest: Callable[..., DebianGuest]) -> None:
    guest = debian_guest()
    stext = "echo 0 > /proc/sys/kernel/kptr_restrict; grep -w _stext /proc/kallsyms"
    before = guest.check(stext)
    guest.reboot()
    assert guest.check(stext) != before, "KASLR"
    assert guest.poweroff() == 0


def image(path: Path, *code: int) -> Path:
    """A kernel Image of these instructions."""
    header = struct.pack("<IIQQQ24sII", 0x14000010, 0, 0, 0x10000, 0xA, b"", 0x644D5241, 0)  # b 0x40
    path.write_bytes((header + struct.pack(f"<{len(code)}I", *code)).ljust(0x2000, b"\0"))
    return path


def test_cpus_that_stay(tmp_path: Path) -> None:
    """How a stock kernel takes and gives back the others: tests/lab/test_resize.py."""
    if not CODE.exists():
        pytest.skip(MISSING)
    with Vm(VmConfig(firmware=str(CODE), memory="128M", cpus="boot=2,max=4", id="cpus")) as vm:
        vm.boot()
        for number, said in (0, "is not 1 to 4"), (1, "the first 2, those of --cpus boot="), (5, "is not 1 to 4"):
            with pytest.raises(GuestError, match=said):
                vm.resize(cpus=number)
        vm.resize(cpus=4)
        vm.resize(cpus=2)
        assert vm.info()["vcpus"] == 4, "the firmware ejects none"
    with Vm(VmConfig(kernel=str(image(tmp_path / "Image", 0x14000000)), memory="128M", cpus="boot=1,max=2")) as vm:
        vm.boot()
        with pytest.raises(GuestError, match="--firmware"):
            vm.resize(cpus=2)


def test_registers_of_a_vcpu_that_kvm_gave_up_on(tmp_path: Path) -> None:
    # mov x5, #0x1234; mov x1, #0x9000000; ldp x2, x3, [x1]; b .
    loads = image(tmp_path / "Image", 0xD2824685, 0xD2A12001, 0xA9400C22, 0x14000000)
    done = subprocess.run([*default_vmm(), "--kernel", loads, "--serial", "null", "--memory", "64M"],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 8, done.stderr
    first, *registers = done.stderr.splitlines()
    assert "0x9000000" in first
    assert "x5 0x1234" in " ".join(registers)
    assert "pc 0x40400048" in " ".join(registers)
