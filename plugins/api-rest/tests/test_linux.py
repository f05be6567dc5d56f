# SPDX-License-Identifier: Apache-2.0
"""A Debian that is driven through the API while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.arch import arch_of
from vmm_testkit.firmware import with_acpi
from vmm_testkit.guest import DebianGuest

from vmm_api_rest.client import Client

pytestmark = pytest.mark.linux_guest

MODULES = ["virtio_pci", "virtio_blk"]
MIB = 1 << 20


def wait_for(guest: DebianGuest, condition: str) -> None:
    """In the guest, until a shell condition holds."""
    guest.check(f"until {condition}; do sleep 0.1; done", timeout=120)


def test_a_disk_comes_and_goes_with_the_guests_consent(
    debian_guest: Callable[..., DebianGuest], tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 8 * MIB)
    api = Client(tmp_path / "api.sock")
    guest = debian_guest("--api-socket", api.path, **with_acpi(arch_of(), modules=MODULES))
    for number in range(3):
        size = (8 + 8 * number) * MIB
        answer = api.call("PUT", "vm.add-disk", {"path": str(image), "id": "data", "serial": f"N{number}"})
        wait_for(guest, f'[ "$(cat /sys/block/vda/serial 2>/dev/null)" = N{number} ]')
        assert guest.check("basename $(readlink -f /sys/block/vda/device/..)").strip() == answer["bdf"]
        assert int(guest.check("cat /sys/block/vda/size")) == size // 512
        api.call("PUT", "vm.resize-disk", {"id": "data", "desired_size": size + 8 * MIB})
        wait_for(guest, f"[ $(cat /sys/block/vda/size) = {(size + 8 * MIB) // 512} ]")
        answer = api.call("PUT", "vm.remove-device", {"id": "data"})
        assert answer in (None, {"id": "data", "state": "pending"})  # a guest may take longer than a second
        wait_for(guest, "[ ! -e /sys/block/vda ]")
        while "data" in api.call("GET", "vm.info")["device_tree"]:
            guest.check("sleep 0.1")  # the driver has let go, the eject follows
    api.call("PUT", "vm.pause")
    assert api.call("GET", "vm.info")["state"] == "Paused"
    api.call("PUT", "vm.resume")
    assert guest.check("echo there").strip() == "there"
    api.call("PUT", "vmm.shutdown")
    assert guest.wait(60) == 0
