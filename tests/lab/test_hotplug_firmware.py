# SPDX-License-Identifier: Apache-2.0
"""Devices come and go on an Arm machine with ACPI: Debian on EDK2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from asking import running
from vmm_testkit.kernels import Kernel

CODE = Path("/usr/share/AAVMF/AAVMF_CODE.fd")

pytestmark = [
    pytest.mark.linux_guest,
    pytest.mark.arch("aarch64", reason="x86-64 machines have ACPI without firmware"),
    pytest.mark.skipif(not CODE.exists(), reason=f"{CODE} is missing: apt-get install qemu-efi-aarch64"),
    pytest.mark.timeout(900),
]


def test_devices_come_and_go(
    kernel_of: Callable[[str], Kernel], image: Callable[..., Path], tmp_path: Path, soak: Callable[[int, int], int]
) -> None:
    disk = image(16)
    with running(
        kernel_of("cloud"), tmp_path, "virtio_pci", "virtio_blk", "virtio-rng", cmdline="acpi=force",
        args=["--firmware", f"path={CODE}"], boot_timeout=400,
    ) as (guest, ask):  # fmt: skip
        for _ in range(soak(2, 100)):
            ask("add_device", device="disk", options=f"path={disk},id=disk")
            ask("add_device", device="rng", options="id=rng")
            guest.check("until [ -b /dev/vda ] && dd if=/dev/hwrng of=/dev/null bs=16 count=1; do sleep 0.1; done",
                        timeout=240)
            guest.check("(while dd if=/dev/vda of=/dev/null bs=64k; do :; done) > /dev/null 2>&1 &")
            for name in ("disk", "rng"):
                assert ask("remove_device", id=name, wait=240) == "removed"
            guest.check("until [ ! -b /dev/vda ]; do sleep 0.1; done", timeout=240)
        assert guest.poweroff(120) == 0, guest.stderr
