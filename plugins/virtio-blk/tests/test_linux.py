# SPDX-License-Identifier: Apache-2.0
"""Disks under Linux: a file system is made, mounted, filled, trimmed and checked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("vmm_testkit.guest", reason="needs the testkit: pip install -e plugins/testkit")

from vmm_testkit.guest import DebianGuest

pytestmark = pytest.mark.linux_guest

MODULES = ["virtio_pci", "virtio_blk", "ext4"]
MIB = 1 << 20
WAYS = ["", "packed=on", "direct=on", "disable_io_uring=on",
        "num_queues=2,queue_size=32,ops_size=1000,ops_refill_time=10"]


@pytest.mark.parametrize("way", WAYS, ids=["default", "packed", "direct", "pool", "limited"])
def test_file_system(
    request: pytest.FixtureRequest, debian_guest: Callable[..., DebianGuest], tmp_path: Path, way: str
) -> None:
    if "direct" in way:
        request.getfixturevalue("direct")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs mkfs.ext4; apt install e2fsprogs")
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, 64 * MIB)
    guest = debian_guest("--disk", f"path={image},serial=SN-7" + (f",{way}" if way else ""), modules=MODULES,
                         programs=["mkfs.ext4", "e2fsck"], cpus="boot=2")
    assert guest.check("cat /sys/block/vda/serial").strip() == "SN-7"
    assert guest.check("cat /sys/block/vda/size /sys/block/vda/ro").split() == [str(64 * MIB // 512), "0"]
    guest.check("mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/vda && mkdir /run/disk && "
                "mount -t ext4 -o discard /dev/vda /run/disk")
    guest.check("dd if=/dev/urandom of=/run/disk/data bs=1M count=24 2>&1 && sync && sha1sum < /run/disk/data > /run/sum")
    filled = image.stat().st_blocks
    assert filled * 512 > 24 * MIB
    guest.check("umount /run/disk && e2fsck -f -n /dev/vda && echo 3 > /proc/sys/vm/drop_caches && "
                "mount -t ext4 -o discard /dev/vda /run/disk && sha1sum < /run/disk/data | cmp - /run/sum")
    guest.check("rm /run/disk/data && sync && sleep 1 && umount /run/disk && e2fsck -f -n /dev/vda")
    assert filled - image.stat().st_blocks > 40000, "what the guest does not need is given back"
    assert guest.poweroff() == 0
