# SPDX-License-Identifier: Apache-2.0
"""Disks: what was flushed stays, what is read-only does too, and the host's troubles are not the VM's end."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.guest import DebianGuest, default_vmm
from vmm_testkit.kernels import Kernel

pytestmark = [pytest.mark.linux_guest, pytest.mark.timeout(900)]

BLOCK = 4096
# Every record is flushed before it is told. A second writer keeps the device busy beyond the records.
WRITER = r"""
(n={first}
while dd if=/dev/urandom of=/dev/vda bs=64k seek=256 count=64 oflag=direct; do :; done &
while :; do
    printf 'record %08d' $n > /run/record
    dd if=/run/record of=/dev/vda bs=4096 seek=$n conv=sync,fsync && echo "flushed $n" > /dev/console
    n=$((n + 1))
done) > /dev/null 2>&1 &
"""


@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("options", ["", ",direct=on,num_queues=2"], ids=["cached", "direct"])
def test_what_was_flushed_outlives_a_killed_vmm(
    virtio_guest: Callable[..., DebianGuest], host_filesystem: Callable[[int], Path], image: Callable[..., Path],
    soak: Callable[[int, int], int], part: int, options: str,
) -> None:
    if part and not soak(0, 1):
        pytest.skip("more of the same: run it with --soak")
    disk = image(24, folder=host_filesystem(64))
    chance = random.Random(part)
    first = 0
    for _ in range(soak(1, 5)):
        guest = virtio_guest("--disk", f"path={disk}{options}", cpus=f"boot={1 + part % 2}", memory="size=192M")
        guest.check(WRITER.format(first=first))
        guest.expect(rf"flushed {first + chance.randrange(10, 60)}\r", timeout=120)
        guest.kill()
        told = [int(number) for number in re.findall(r"flushed (\d+)\n", guest.console)]
        assert told == list(range(first, first + len(told)))
        assert len(told) > 9
        content = disk.read_bytes()
        for number in range(told[-1] + 1):
            record = content[number * BLOCK:][:15]
            assert record == b"record %08d" % number, f"record {number} of {told[-1]} was flushed, and is lost"
        first = told[-1] + 1


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_readonly_means_readonly(virtio_guest: Callable[..., DebianGuest], image: Callable[..., Path]) -> None:
    disk = image(16)
    disk.write_bytes(random.Random(1).randbytes(16 << 20))
    before = digest(disk), disk.stat().st_mtime_ns
    disk.chmod(0o444)
    guest = virtio_guest("--disk", f"path={disk},readonly=on", programs=["mkfs.ext4"])
    assert guest.check("cat /sys/block/vda/ro; sha256sum /dev/vda").split()[:2] == ["1", before[0]]
    for write in ("dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync", "mkfs.ext4 -F -q /dev/vda",
                  "busybox blkdiscard /dev/vda",
                  "blockdev --setrw /dev/vda; dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct"):
        assert guest.run(write).status != 0, write
    assert guest.poweroff() == 0
    assert (digest(disk), disk.stat().st_mtime_ns) == before


def test_the_disk_of_one_vm_is_refused_to_another(
    virtio_guest: Callable[..., DebianGuest], image: Callable[..., Path], debian_kernel: Kernel
) -> None:
    disk, shared = image(1), image(1, "shared.img")
    guest = virtio_guest("--disk", f"path={disk}", "--disk", f"path={shared},readonly=on")

    def second(options: str) -> tuple[int, str]:
        command = [*default_vmm(), "--kernel", str(debian_kernel.vmlinuz), "--memory", "size=128M", "--serial", "null"]
        done = subprocess.run([*command, "--disk", options], capture_output=True, text=True, timeout=30)
        return done.returncode, done.stderr

    for options in (f"path={disk}", f"path={disk},readonly=on", f"path={shared}"):
        status, said = second(options)
        assert status == 2, said
        assert re.fullmatch(rf"vmm: error: --disk path=: .*{disk.parent}.*\n", said), said
    other = virtio_guest("--disk", f"path={shared},readonly=on")
    assert other.check("cat /sys/block/vda/ro") == "1\n"
    guest.kill()
    status, said = second(f"path={disk},queue_size=3")  # the lock is free now; refused for another reason
    assert "queue_size" in said, said


@pytest.mark.parametrize("options", ["", ",direct=on"], ids=["cached", "direct"])
def test_a_full_host_is_an_io_error_and_the_vm_goes_on(
    virtio_guest: Callable[..., DebianGuest], host_filesystem: Callable[[int], Path], image: Callable[..., Path],
    options: str,
) -> None:
    folder = host_filesystem(24)
    disk = image(64, folder=folder)
    filler = folder / "filler"
    filler.write_bytes(bytes(4 << 20))
    guest = virtio_guest("--disk", f"path={disk}{options}")
    failed = guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=48 conv=fsync")
    assert failed.status != 0, failed.output
    assert "I/O error" in guest.check("dmesg")
    guest.check("echo $((6 * 7)) && dd if=/dev/vda of=/dev/null bs=1M")
    filler.unlink()
    guest.check("dd if=/dev/urandom of=/run/new bs=64k count=16 && "
                "dd if=/run/new of=/dev/vda bs=1M seek=50 conv=fsync && "
                "echo 3 > /proc/sys/vm/drop_caches && dd if=/dev/vda bs=1M skip=50 count=1 | cmp - /run/new")
    assert guest.poweroff() == 0


def test_fewer_queues_than_offered(virtio_guest: Callable[..., DebianGuest], image: Callable[..., Path]) -> None:
    disk = image(32)
    guest = virtio_guest("--disk", f"path={disk},num_queues=4", cpus="boot=2",
                         modules=["virtio_blk num_request_queues=2"])
    assert guest.check("ls /sys/block/vda/mq").split() == ["0", "1"]
    guest.check("dd if=/dev/urandom of=/run/data bs=1M count=8 && for c in 0 1; do taskset $((c + 1)) "
                "dd if=/run/data of=/dev/vda bs=1M seek=$((c * 8)) conv=fsync || exit 1; done; "
                "echo 3 > /proc/sys/vm/drop_caches; for c in 0 1; do "
                "taskset $((c + 1)) dd if=/dev/vda bs=1M skip=$((c * 8)) count=8 | cmp - /run/data || exit 2; done")
    assert guest.poweroff() == 0
