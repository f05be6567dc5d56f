# SPDX-License-Identifier: Apache-2.0
"""A disk as its driver sees it: the real device in a real machine, driven from here."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vmm_testkit.virtio", reason="needs the testkit: pip install -e plugins/testkit")

from blkdriver import (
    DISCARD,
    F_CONFIG_WCE,
    F_DISCARD,
    F_FLUSH,
    F_MQ,
    F_RO,
    F_WRITE_ZEROES,
    FLUSH,
    GET_ID,
    IN,
    IOERR,
    OK,
    OUT,
    SECTOR,
    UNSUPP,
    WRITE_ZEROES,
    Disk,
)
from vmmcore.errors import VmmError

pytestmark = pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="needs /dev/kvm; `vmm check` says what to do")

#: how the data plane may run
WAYS = ["", "disable_io_uring=on", "direct=on", "packed=on", "direct=on,disable_io_uring=on"]


@pytest.fixture(params=WAYS, ids=[way or "default" for way in WAYS])
def disk(request: pytest.FixtureRequest, image: Path) -> Iterator[Disk]:
    if "direct" in request.param:
        request.getfixturevalue("direct")
    with Disk.at(image, request.param) as disk:
        yield disk


def test_what_is_written_is_read_and_in_the_file(disk: Disk, image: Path) -> None:
    before = image.read_bytes()
    assert disk.read(0, 64 << 10) == before[: 64 << 10]
    data = os.urandom(32 << 10)
    disk.write(40, data)
    assert disk.read(40, len(data)) == data
    assert image.read_bytes() == before[: 40 * SECTOR] + data + before[40 * SECTOR + len(data):]
    last = len(before) // SECTOR - 8
    disk.write(last, data[:4096])
    assert disk.read(last, 4096) == data[:4096]
    assert disk.ask(IN, last + 8, room=[SECTOR])[0] == IOERR
    counters = disk.device.counters()
    assert (counters["read_ops"], counters["write_ops"], counters["errors"]) == (3, 2, 1)
    assert counters["write_bytes"] == (32 << 10) + 4096


def test_many_at_once_in_several_pieces(disk: Disk, image: Path) -> None:
    before = image.read_bytes()
    tokens = [disk.post(IN, n * 32, room=[4096, 8192, 4096], kick=False) for n in range(40)]
    disk.kick(0)
    for n, token in enumerate(tokens):
        assert disk.result(token) == (OK, before[n * 32 * SECTOR:][: 16 << 10])


def test_pieces_at_odd_addresses(disk: Disk, image: Path) -> None:
    data = os.urandom(4096)
    assert disk.ask(OUT, 8, [data[:1], data[1:1000], data[1000:]])[0] == OK
    assert disk.ask(IN, 8, room=[3, 4092, 1]) == (OK, data)
    assert image.read_bytes()[4096:8192] == data


def test_serial_number(image: Path) -> None:
    with Disk.at(image, "serial=WD-1234") as disk:
        assert disk.ask(GET_ID, room=[20]) == (OK, b"WD-1234".ljust(20, b"\0"))
    with Disk.at(image) as disk:
        assert disk.ask(GET_ID, room=[20]) == (OK, b"disk0".ljust(20, b"\0"))


def test_configuration(image: Path) -> None:
    with Disk.at(image, "num_queues=2,queue_size=128") as disk:
        config = disk.device.config
        capacity, seg_max, block, exponent, writeback, queues = (
            struct.unpack_from(form, config, at)[0]
            for form, at in (("<Q", 0), ("<I", 12), ("<I", 20), ("B", 24), ("B", 32), ("<H", 34)))
        assert (capacity, seg_max, writeback, queues) == (8192, 126, 1, 2)
        assert block << exponent == os.stat(image).st_blksize
        assert disk.offered & (F_FLUSH | F_CONFIG_WCE | F_MQ | F_DISCARD | F_WRITE_ZEROES)
        assert not disk.offered & F_RO
    with Disk.at(image, "sparse=off") as disk:
        assert not disk.offered & (F_DISCARD | F_MQ)


def test_several_queues_and_only_some_of_them(image: Path) -> None:
    before = image.read_bytes()
    with Disk.at(image, "num_queues=4") as disk:
        for queue in range(4):
            assert disk.read(queue, SECTOR, queue) == before[queue * SECTOR:][:SECTOR]
        disk.start(queues=[0, 2])
        for queue in (2, 0):
            assert disk.read(9, SECTOR, queue) == before[9 * SECTOR:][:SECTOR]


def test_read_only(image: Path) -> None:
    before = image.read_bytes()
    image.chmod(0o444)
    with Disk.at(image, "readonly=on") as disk:
        assert disk.features & F_RO
        assert not disk.offered & (F_DISCARD | F_WRITE_ZEROES | F_CONFIG_WCE)
        assert disk.read(5) == before[5 * SECTOR:][:SECTOR]
        assert disk.ask(OUT, 0, [bytes(SECTOR)])[0] == IOERR
        assert disk.ranges(DISCARD, (0, 8, 0)) in (IOERR, UNSUPP)
        assert disk.ranges(WRITE_ZEROES, (0, 8, 0)) in (IOERR, UNSUPP)
        assert disk.ask(FLUSH)[0] == OK
        with Disk.at(image, "readonly=on") as second:
            assert second.read(5) == before[5 * SECTOR:][:SECTOR]
        with pytest.raises(VmmError, match="in use"):
            Disk.at(image)
    assert image.read_bytes() == before


def test_discard_gives_blocks_back(disk: Disk, image: Path) -> None:
    os.sync()
    before = image.stat()
    assert disk.ranges(DISCARD, (0, 2048, 0), (4096, 1024, 0)) == OK
    after = image.stat()
    assert before.st_blocks - after.st_blocks >= 3072 - 16
    assert after.st_size == before.st_size
    assert disk.read(0, 4096) == bytes(4096)


@pytest.mark.parametrize("unmap", [0, 1])
def test_write_zeroes(disk: Disk, image: Path, unmap: int) -> None:
    before = image.read_bytes()
    assert disk.ranges(WRITE_ZEROES, (8, 1024, unmap), (2048, 64, unmap)) == OK
    after = image.read_bytes()
    assert after[: 8 * SECTOR] == before[: 8 * SECTOR]
    assert after[8 * SECTOR:1032 * SECTOR] == bytes(1024 * SECTOR)
    assert after[1032 * SECTOR:2048 * SECTOR] == before[1032 * SECTOR:2048 * SECTOR]
    assert after[2048 * SECTOR:2112 * SECTOR] == bytes(64 * SECTOR)
    assert after[2112 * SECTOR:] == before[2112 * SECTOR:]


def test_write_zeroes_keeps_blocks_when_asked(image: Path) -> None:
    os.sync()
    with Disk.at(image, "sparse=off") as disk:
        blocks = image.stat().st_blocks
        assert disk.ranges(WRITE_ZEROES, (0, 4096, 1)) == OK
        os.sync()
        assert image.stat().st_blocks >= blocks
        assert disk.read(0, 4096) == bytes(4096)


def test_write_zeroes_on_a_file_system_that_cannot(small_tmpfs: Path) -> None:
    path = small_tmpfs / "disk"  # tmpfs has holes, but zeroes no range
    path.write_bytes(b"\xff" * (1 << 20))
    with Disk.at(path) as disk:
        assert disk.ranges(WRITE_ZEROES, (1, 2000, 0)) == OK
    assert path.read_bytes() == b"\xff" * 512 + bytes(2000 * 512) + b"\xff" * (47 * 512)


@pytest.mark.parametrize("way", ["", "disable_io_uring=on"])
def test_full_file_system_is_an_io_error_and_no_more(small_tmpfs: Path, way: str) -> None:
    path = small_tmpfs / "disk"
    path.touch()
    os.truncate(path, 8 << 20)
    with Disk.at(path, way) as disk:
        results = [disk.ask(OUT, n * 512, [bytes([n + 1]) * (256 << 10)])[0] for n in range(16)]
        assert results[0] == OK and results[-1] == IOERR
        assert disk.count("errors") == results.count(IOERR)
        assert disk.ask(FLUSH)[0] == OK
        assert disk.read(0, 4096) == b"\1" * 4096, "what was written before is there"
        assert disk.ranges(DISCARD, (0, 8192, 0)) == OK
        disk.write(8000, b"again" * 512 + bytes(512))  # there is room again


def test_resize(disk: Disk, image: Path) -> None:
    assert disk.ask(IN, 8192, room=[SECTOR])[0] == IOERR
    disk.interrupts()
    generation = disk.generation
    assert disk.device.resize(8 << 20) == 8 << 20  # type: ignore[attr-defined]
    assert image.stat().st_size == 8 << 20
    assert 0 in disk.interrupts(), "the driver hears of it"
    assert disk.generation != generation
    assert disk.config_read(0, 8) == 16384
    disk.write(16376, bytes(4096))
    os.truncate(image, 2 << 20)
    assert disk.device.resize() == 2 << 20  # type: ignore[attr-defined]
    assert disk.ask(IN, 4096, room=[SECTOR])[0] == IOERR


@pytest.mark.parametrize("size", [0, -512, 1000, "1G", None.__class__])
def test_impossible_size(image: Path, size: object) -> None:
    with Disk.at(image) as disk, pytest.raises(VmmError, match="disk0: a disk of"):
        disk.device.resize(size)  # type: ignore[attr-defined]
    assert image.stat().st_size == 4 << 20


def test_read_only_disk_is_not_resized(image: Path) -> None:
    with Disk.at(image, "readonly=on") as disk, pytest.raises(VmmError, match="read-only"):
        disk.device.resize(8 << 20)  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", ["", "disable_io_uring=on", "packed=on"])
def test_reset_in_the_middle_of_io(image: Path, way: str) -> None:
    """Nothing of an old activation reaches a new one; all that the file has is what was asked for."""
    with image.open("r+b") as file:
        file.write(bytes(65536))
    with Disk.at(image, way) as disk:
        for round_ in range(200 if not way else 30):
            for n in range(16):
                disk.post(OUT, n * 8, [bytes([round_ + 1]) * 4096], kick=False)
            disk.kick(0)
            disk.start(size=64 if round_ % 2 else 128)
            for n in (0, 15):  # done or not, but each request as a whole
                block = set(disk.read(n * 8, 4096))
                assert len(block) == 1 and block <= set(range(round_ + 2))
            with image.open("rb") as file:
                now = file.read(65536)
            assert now == image.read_bytes()[:65536], "nothing of the old activation is still being written"
        disk.write(0, b"\xaa" * 4096)
        assert disk.read(0, 4096) == b"\xaa" * 4096


def test_pause_waits_for_io_and_goes_on(image: Path) -> None:
    with Disk.at(image) as disk:
        for _ in range(20):
            tokens = [disk.post(OUT, n * 8, [b"p" * 4096], kick=False) for n in range(32)]
            disk.kick(0)
            disk.machine.pause()
            saved = disk.device._save()
            assert saved["device"]["capacity"] == 8192
            disk.machine.resume()
            assert all(disk.result(token)[0] == OK for token in tokens)


def test_rate_limit_is_kept(image: Path) -> None:
    import time

    with Disk.at(image, "bw_size=64K,bw_refill_time=20") as disk:
        before = time.monotonic()
        for n in range(48):  # 192 KiB; 64 of them at once
            disk.read(n * 8, 4096)
        assert time.monotonic() - before >= 0.039  # a lower bound: no more can have come
    with Disk.at(image, "ops_size=1,ops_refill_time=3600000,ops_one_time_burst=10") as disk:
        for _ in range(11):
            disk.read(0)
        waiting = disk.post(IN, 0, room=[SECTOR])
        disk.machine.pause()
        disk.machine.resume()
        assert not waiting.done
        disk.reset()  # does not wait an hour
        assert disk.count("read_ops") == 11


def test_durability_is_asked_for_where_it_was_promised(image: Path, tmp_path: Path) -> None:
    """FLUSH is an fdatasync; a driver without a cache has each write on the medium. Seen by strace."""
    import shutil
    import subprocess
    import sys

    if shutil.which("strace") is None:
        pytest.skip("needs strace; apt install strace")
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from blkdriver import *\n"
        f"with Disk.at(Path({str(image)!r}), 'disable_io_uring=on') as disk:\n"
        "    disk.write(0, b'a' * 4096)\n"
        "    disk.ask(FLUSH)\n"
        "    disk.start(without=F_FLUSH | F_CONFIG_WCE)\n"
        "    disk.write(8, b'b' * 4096)\n"
        "    disk.start()\n"
        "    disk.write(16, b'c' * 4096)\n"
        "    disk.config_write(32, 1, 0)\n"  # writeback off
        "    disk.write(24, b'd' * 4096)\n")
    trace = tmp_path / "trace"
    run = subprocess.run(["strace", "-f", "-e", "trace=pwritev2,pwritev,fdatasync", "-o", str(trace), sys.executable,
                          str(script)], check=False, capture_output=True, text=True)
    if "ptrace" in run.stderr:
        pytest.skip("strace may not trace here (ptrace); run as root or allow it")
    assert run.returncode == 0, run.stderr
    calls = [line.split(maxsplit=1)[1].split("(")[0] + (" DSYNC" if "RWF_DSYNC" in line else "")
             for line in trace.read_text().splitlines() if "(" in line and "resumed" not in line]
    assert calls == ["pwritev2", "fdatasync", "pwritev2 DSYNC", "pwritev2", "fdatasync", "pwritev2 DSYNC"]


@pytest.mark.parametrize("way", ["", "direct=on", "direct=on,disable_io_uring=on"])
def test_block_device(loop_device: Path, image: Path, way: str) -> None:
    with Disk.at(loop_device, way) as disk:
        assert (disk.config_read(0, 8), disk.config_read(20, 4)) == (8192, 4096)
        data = os.urandom(1 << 20)  # more than a loop device takes at once
        disk.write(8, data)
        assert disk.read(8, len(data)) == data
        assert disk.ask(IN, 1, room=[SECTOR])[0] == IOERR, "not a whole logical block"
        assert disk.ranges(DISCARD, (8, 8, 0)) == OK
        assert disk.ranges(WRITE_ZEROES, (16, 8, 0), (24, 8, 1)) == OK
        assert disk.read(16, 8192) == bytes(8192)
        assert disk.ask(FLUSH)[0] == OK
        with pytest.raises(VmmError, match="block device"):
            disk.device.resize(8 << 20)  # type: ignore[attr-defined]
        assert disk.device.resize() == 4 << 20  # type: ignore[attr-defined]
        with pytest.raises(VmmError, match="in use"):
            Disk.at(loop_device, "readonly=on")
    assert image.read_bytes()[32 << 9:(8 << 9) + (1 << 20)] == data[24 << 9:]
