# SPDX-License-Identifier: Apache-2.0
"""All four devices in one guest, with every kind of interrupt and ring that Linux takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.arch import Arch
from vmm_testkit.guest import DebianGuest
from vmm_testkit.net import Link

pytestmark = pytest.mark.linux_guest


@pytest.mark.parametrize("words", ["", "pci=nomsi"], ids=["msix", "intx"])
@pytest.mark.parametrize("packed", ["", ",packed=on"], ids=["split", "packed"])
def test_all_devices_work(virtio_guest: Callable[..., DebianGuest], host_link: Callable[..., Link],
                          image: Callable[..., Path], tmp_path: Path, arch: Arch, words: str, packed: str) -> None:
    disk, console = image(16), tmp_path / "console"
    net = host_link("vmt0", address="192.168.74.1/24")
    guest = virtio_guest("--disk", f"path={disk},serial=the-disk{packed}", "--net", f"tap={net.name}{packed}",
                         "--console", f"file={console}{packed}", "--rng", f"src=/dev/urandom{packed}",
                         cmdline=words, cpus="boot=2")
    devices = guest.check("cat /sys/bus/virtio/devices/*/features").split()
    assert len(devices) == 4
    for features in devices:
        assert features[32] == "1"
        assert features[34] == ("1" if packed else "0")
    interrupts = guest.check("grep -i virtio /proc/interrupts")
    assert (arch.intx in interrupts, arch.msi in interrupts) == ((True, False) if words else (False, True)), interrupts
    assert guest.check("cat /sys/block/vda/serial").strip() == "the-disk"
    guest.check("dd if=/dev/urandom of=/run/data bs=1M count=8 && dd if=/run/data of=/dev/vda bs=1M conv=fsync && "
                "echo 3 > /proc/sys/vm/drop_caches && dd if=/dev/vda bs=1M count=8 | cmp - /run/data", timeout=120)
    assert disk.read_bytes()[:8 << 20] != bytes(8 << 20)
    said = guest.check(f"{net.guest_commands}; ping -q -c 5 -s 1400 {net.address}")
    assert "5 packets received" in said
    assert guest.check("dd if=/dev/hwrng bs=64 count=16 2> /dev/null | wc -c") == "1024\n"
    guest.check("echo said in the guest > /dev/hvc0")
    assert guest.poweroff() == 0, guest.stderr
    assert "said in the guest" in console.read_text()
