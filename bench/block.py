# SPDX-License-Identifier: Apache-2.0
"""Disks: fio in a guest of ours and in QEMU's q35 and microvm, on the same kind of backing device.

That device (null_blk) does nothing and does it at once, so what is compared is the way from the guest's driver to the
host's kernel and back. One queue by the clock that counts instructions, four by the wall clock.
"""

from __future__ import annotations

from typing import Any

import io_guest
from io_compare import Contest
from io_lab import DISKS, IoBench

UNITS = {"4k randread": "IOPS", "4k randwrite": "IOPS", "128k read": "MiB/s", "128k write": "MiB/s"}


def words(name: str, n: int, queues: int, cache: str) -> list[str]:
    """Arguments for the disk number `n`."""
    if name == "vmm":
        direct = "on" if cache == "none" else "off"
        return ["--disk", f"path=/dev/nullb{n},direct={direct},num_queues={queues}"]
    drive = f"file=/dev/nullb{n},if=none,id=d0,format=raw,aio=io_uring,cache={cache}"
    device = f"virtio-blk-pci,drive=d0,iothread=io0,num-queues={queues},disable-legacy=on"
    return ["-nic", "none", "-object", "iothread,id=io0", "-drive", drive, "-device", device]


def commands(jobs: int, limit: str, cache: str, quick: bool) -> list[tuple[str, str]]:
    """(row, command). ``limit`` is "count" (so many requests) or "time" (so many milliseconds)."""
    counts = {"4k": 12000, "128k": 6000 if cache == "none" else 2000}
    found = []
    for row in UNITS:
        size, kind = row.split()
        ends = 1000 if limit == "time" else counts[size]
        found.append((row, f"blk {kind} {size} {jobs} {limit} {ends // 6 if quick and limit == 'count' else ends}"))
    return found


def read(step: dict[str, Any]) -> dict[str, float]:
    row, jobs = step["key"], io_guest.parse_fio(step["output"])
    return {row: jobs[0]["iops" if UNITS[row] == "IOPS" else "mib_s"]} if jobs else {}


def run(quick: bool, only: str = "", rounds: int = 5) -> tuple[str, dict[str, Any]]:
    bench = IoBench(("fio",))
    try:
        image = bench.dir / "probe"
        with open(image, "wb") as file:
            file.truncate(1 << 20)
        bench.pack(["--disk", f"path={image}"])
        contest = Contest(bench, quick, only, rounds)
        contest.units = UNITS
        for cache in ("none", "writeback"):
            contest.counted(
                f"counted, 1 queue, {cache}: ",
                lambda name, n, cache=cache: bench.vm(name, words(name, n, 1, cache), 1),  # type: ignore[misc]
                commands(1, "count", cache, quick),
                read,
                DISKS.replace("@QUEUES@", "1"),
            )
        for queues, cache in ((4, "none"), (4, "writeback")):
            contest.alternating(
                f"wall, {queues} queues, {cache}: ",
                lambda name, n, q=queues, cache=cache: bench.vm(name, words(name, n, q, cache), q),  # type: ignore[misc]
                commands(queues, "time", cache, quick),
                read,
                DISKS.replace("@QUEUES@", "2"),
            )
        return contest.report("block", f"Disk, Linux {bench.kernel_version}, depth 32")
    finally:
        bench.close()


