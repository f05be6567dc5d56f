# SPDX-License-Identifier: Apache-2.0
"""A disk in a VM of its own process: operations through the handle, the lock across a reboot and after the end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from vmmcore import GuestError, UserError, Vm, VmConfig

baremetal = pytest.importorskip("vmm_testkit.baremetal", reason="needs the testkit: pip install -e plugins/testkit")

pytestmark = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm; `vmm check` says what to do")

FOREVER = '#include "guest.h"\nint main(struct hvm_start_info *si) { (void)si; for (;;) __asm__ volatile("pause"); }'


def vm_with(image: Path, more: str = "") -> Vm:
    from vmmcore.front.config import DeviceConfig

    kernel = baremetal.BareMetal(FOREVER).build()
    return Vm(VmConfig(kernel=kernel, memory="32M", devices=[DeviceConfig("disk", f"path={image}{more}")]))


def test_resize_through_the_handle(image: Path) -> None:
    with vm_with(image) as vm:
        vm.boot()
        assert vm.resize_disk("disk0", 6 << 20) == 6 << 20
        assert image.stat().st_size == 6 << 20
        os.truncate(image, 5 << 20)
        assert vm.resize_disk("disk0") == 5 << 20
        for words, device, method, arguments in (
            ("disk0: a disk of 1000 bytes", "disk0", "resize", {"size": 1000}),
            ("no device 'disk9'", "disk9", "resize", {"size": 1 << 20}),
            ("disk0: no operation 'remove'; it has: resize", "disk0", "remove", {}),
            ("disk0: no operation '_setup'", "disk0", "_setup", {}),
            ("disk0: .*unexpected keyword", "disk0", "resize", {"bytes": 1}),
        ):
            with pytest.raises(GuestError, match=words):
                vm.call(device, method, **arguments)
        assert vm.counters()["disk0"]["errors"] == 0
        assert vm.shutdown() == 0
    assert image.stat().st_size == 5 << 20


def test_lock_lives_as_long_as_the_vm(image: Path) -> None:
    with vm_with(image) as first:
        first.boot()
        with pytest.raises(UserError, match=r"--disk path=: .*is in use"), vm_with(image, ",readonly=on") as second:
            second.boot()
        first.reboot()
        for event, _ in first.events(30):
            if event == "rebooted":
                break
        else:
            raise AssertionError("no reboot")
        with pytest.raises(UserError, match="is in use"), vm_with(image) as second:
            second.boot()
        first.close()  # kill -9
        with vm_with(image) as second:
            second.boot()
            assert second.info()["devices"][0]["id"] == "disk0"


def test_hot_plugged_disk_is_free_after_its_removal(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(bytes(1 << 20))
    with vm_with(image) as vm:
        vm.boot()
        assert vm.add_device("disk", f"path={other},id=extra") == "extra"
        with pytest.raises(UserError, match="is in use"):
            vm.add_device("disk", f"path={other}")
        assert vm.resize_disk("extra", 2 << 20) == 2 << 20
        vm.remove_device("extra", force=True)
        assert vm.add_device("disk", f"path={other},id=again") == "again"
