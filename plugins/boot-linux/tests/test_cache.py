# SPDX-License-Identifier: Apache-2.0
"""The cache of decompressed kernels: found again, never trusted blindly, never in the way."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import COMPRESSORS, Segment, bzimage, code, elf, kernel_segments, payload
from conftest import MIB, Plan, settle
from test_images import oracle

from vmm_boot_linux import cache
from vmm_boot_linux.decompress import STEP, Damaged, decompress
from vmmcore.errors import UserError

NOBODY = 65534


def entry_of(cache_dir: Path) -> Path:
    (entry,) = cache_dir.glob("*.vmlinux")
    return entry


def loaded(plan: Plan, kernel: Path, **options: str) -> tuple[dict[int, bytes], str]:
    """What gets loaded, and from which file."""
    _, context = plan(kernel, **options)
    return context.memory(), context.files[-1][0]


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; its exit status: 0 unless it raised."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # noqa: B036
            os.write(2, f"child: {error!r}\n".encode())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("method", COMPRESSORS)
def test_every_compression(tmp_path: Path, plan: Plan, method: str) -> None:
    data = elf(tail=code(STEP + MIB, 11))  # more than one step, more than one lz4 block
    path = tmp_path / method
    path.write_bytes(bzimage(payload(data, method), init_size=64 * MIB))
    memory, file = loaded(plan, path, extract="on")
    assert memory == oracle(data) and Path(file).read_bytes() == data


@pytest.mark.parametrize("packed", [b"\x89LZO\0\r\n\x1a\n" + bytes(100), b"unknown compression"])
def test_what_we_cannot_decompress_is_left_to_the_guest(tmp_path: Path, plan: Plan, packed: bytes) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage(packed))
    assert loaded(plan, path)[1] == str(path)
    with pytest.raises(UserError, match="cannot be decompressed on the host.*extract=off"):
        plan(path, extract="on")
    with pytest.raises(UserError, match="cannot be decompressed on the host.*extract=off"):
        plan(path, protocol="pvh")


def test_a_payload_that_is_no_kernel_is_left_alone(tmp_path: Path, plan: Plan, cache_dir: Path) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage(payload(b"no ELF file at all", "gzip")))
    assert loaded(plan, path)[1] == str(path)
    path.write_bytes(bzimage(payload(elf()[:0x2000], "gzip")))
    assert loaded(plan, path)[1] == str(path)
    assert not list(cache_dir.glob("*.vmlinux")) and not list(cache_dir.glob("*.new"))


@pytest.mark.parametrize("method", COMPRESSORS)
def test_a_damaged_payload_is_named(tmp_path: Path, plan: Plan, cache_dir: Path, method: str) -> None:
    good = payload(elf(tail=code(4000, 13)), method)
    path = tmp_path / "bzImage"
    half = len(good) // 2
    # lz4's legacy frames and short zstd frames have no checksum: only lost bytes can be noticed there.
    damages = [good[:half] + good[-4:], good[:12] + bytes(24) + good[36:]]
    for bad in damages[:1] if method in ("lz4", "zstd") else damages:
        path.write_bytes(bzimage(bad))
        with pytest.raises(UserError, match=r"--kernel: .* is damaged: .*; fetch or build"):
            plan(path)
    assert not list(cache_dir.glob("*.vmlinux")) and not list(cache_dir.glob("*.new"))


@pytest.mark.parametrize("method", COMPRESSORS)
def test_a_bomb_stays_small(method: str) -> None:
    bomb = COMPRESSORS[method](bytes(64 * MIB))
    if method == "gzip":
        bomb = bomb[:-4]
    pieces = []
    with pytest.raises(Damaged, match="expands beyond the 1000 bytes"):
        for piece in decompress(bomb + struct.pack("<I", 1000), 1 << 30):
            pieces.append(piece)
    assert sum(map(len, pieces)) <= 1000
    with pytest.raises(Damaged, match="more than the 4096 it may have"):
        decompress(bomb + struct.pack("<I", 64 * MIB), 4096)
    assert max(len(piece) for piece in decompress(payload(bytes(20 * MIB), method), 1 << 30)) <= STEP


def test_the_second_start_finds_it(kernel: Path, plan: Plan, cache_dir: Path) -> None:
    loaded(plan, kernel)
    first = entry_of(cache_dir).stat()
    memory, file = loaded(plan, kernel)
    assert memory == oracle(elf()) and file == str(entry_of(cache_dir))
    assert entry_of(cache_dir).stat().st_ino == first.st_ino
    assert cache_dir.stat().st_mode & 0o777 == 0o700 and first.st_mode & 0o777 == 0o400


def test_a_warm_start_hashes_and_decompresses_nothing(kernel: Path, plan: Plan) -> None:
    loaded(plan, kernel)
    program = (
        "import sys; sys.path[:0] = [sys.argv[2]]\n"
        "from conftest import Context\n"
        "for name in ('hashlib', '_hashlib', '_sha256', 'lzma', 'bz2', 'gzip', 'zlib', 'lz4', 'zstandard'):\n"
        "    for key in [k for k in sys.modules if k.split('.')[0] == name]: del sys.modules[key]\n"
        "from vmm_boot_linux.plugin import vmm_boot_probe\n"
        "path = sys.argv[1]; data = open(path, 'rb').read()\n"
        "context = Context(1 << 28)\n"
        "vmm_boot_probe(path, data[:65536], len(data)).plan(context)\n"
        "assert context.files[-1][0].endswith('.vmlinux')\n"
        "bad = {'hashlib', 'lzma', 'bz2', 'gzip', 'zlib', 'lz4', 'zstandard', 'vmm_boot_linux.decompress'}\n"
        "assert not bad & set(sys.modules), bad & set(sys.modules)\n")
    subprocess.run([sys.executable, "-c", program, kernel, Path(__file__).parent], check=True)


def test_the_same_kernel_with_another_name(kernel: Path, plan: Plan, cache_dir: Path, tmp_path: Path) -> None:
    loaded(plan, kernel)
    copy = tmp_path / "copy"
    copy.write_bytes(kernel.read_bytes())
    before = entry_of(cache_dir).stat().st_ino
    assert loaded(plan, copy)[0] == oracle(elf())
    assert entry_of(cache_dir).stat().st_ino == before


def test_another_kernel_in_the_same_place(kernel: Path, plan: Plan) -> None:
    loaded(plan, kernel)
    data = elf(kernel_segments(), entry=0x1000040, tail=b"another")
    times = kernel.stat()
    kernel.write_bytes(bzimage(payload(data, "gzip")))
    os.utime(kernel, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert plan(kernel)[0]["rip"] == 0x1000040


def test_a_kernel_written_just_now_is_not_remembered(tmp_path: Path, plan: Plan, cache_dir: Path) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage())
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_ctime_ns + 3600 * 10**9))  # a clock that went back
    settle(path)
    assert loaded(plan, path)[0] == oracle(elf())
    assert not list(cache_dir.glob("*.key"))


def _append(path: Path) -> None:
    path.chmod(0o600)
    with open(path, "ab") as file:
        file.write(b"x")
    path.chmod(0o400)


def _patch(path: Path) -> None:
    """Change a byte and put size, mode and times back."""
    before = path.stat()
    path.chmod(0o600)
    with open(path, "r+b") as file:
        file.seek(0x1800)
        file.write(b"\xcc")
    path.chmod(0o400)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _truncate(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, 0x1800)
    path.chmod(0o400)


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.rename(path)


def _symlink(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def _hardlink(path: Path) -> None:
    os.link(path, path.parent.parent / "elsewhere")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o400)


def _chown(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    os.chown(path, NOBODY, NOBODY)


def _stamp(path: Path) -> None:
    stamp = path.with_suffix(".stamp")
    stamp.chmod(0o600)
    stamp.write_text("0-0-0-0-0")


def _stamp_cut(path: Path) -> None:
    stamp = path.with_suffix(".stamp")
    stamp.chmod(0o600)
    stamp.write_bytes(stamp.read_bytes()[:-4])


def _stamp_lies(path: Path) -> None:
    stamp = path.with_suffix(".stamp")
    stamp.chmod(0o600)
    stamp.write_text(stamp.read_text().split("\n")[0] + "\n0+ffffffff\n")


def _key(path: Path) -> None:
    (key,) = path.parent.glob("*.key")
    key.chmod(0o600)
    key.write_text("../" * 21 + "x")


TAMPERS: list[Callable[[Path], Any]] = [
    _append, _patch, _truncate, _replace, _symlink, _hardlink, _fifo, _chown,
    _stamp, _stamp_cut, _stamp_lies, _key,
    lambda path: path.chmod(0o644), lambda path: path.unlink(),
    lambda path: path.with_suffix(".stamp").unlink(),
]


@pytest.mark.parametrize("tamper", TAMPERS, ids=lambda f: f.__name__)
def test_an_entry_that_is_not_as_we_left_it_is_made_again(
        kernel: Path, plan: Plan, cache_dir: Path, tamper: Callable[[Path], Any]) -> None:
    loaded(plan, kernel)
    tamper(entry_of(cache_dir))
    memory, file = loaded(plan, kernel)
    assert memory == oracle(elf()) and file == str(entry_of(cache_dir))
    status = entry_of(cache_dir).lstat()
    assert (status.st_mode, status.st_uid, status.st_nlink) == (0o100400, os.geteuid(), 1)
    assert loaded(plan, kernel)[0] == oracle(elf())  # and is good from now on
    assert entry_of(cache_dir).stat().st_ino == status.st_ino


def _open_to_all(path: Path) -> None:
    path.chmod(0o777)


def _dir_symlink(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to(path.with_name("real"))


def _dir_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


@pytest.mark.parametrize("spoil", [_open_to_all, _dir_symlink, _dir_file, _chown], ids=lambda f: f.__name__)
def test_a_directory_that_is_not_ours_alone_is_not_used(
        kernel: Path, plan: Plan, cache_dir: Path, spoil: Callable[[Path], None]) -> None:
    loaded(plan, kernel)
    spoil(cache_dir)
    assert loaded(plan, kernel)[1] == str(kernel)
    with pytest.raises(UserError, match="cannot be decompressed on the host"):
        plan(kernel, extract="on")


def test_no_place_for_a_cache(
        kernel: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/x")
    assert loaded(plan, kernel)[1] == str(kernel)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # ignored: HOME it is
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert loaded(plan, kernel)[1].startswith(str(tmp_path / "home/.cache/vmm/boot/"))
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert loaded(plan, kernel)[1] == str(kernel)


def test_a_full_disk(kernel: Path, plan: Plan, cache_dir: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0x2000, 0x2000))
        assert loaded(plan, kernel)[1] == str(kernel)

    assert in_child(work) == 0
    assert not list(cache_dir.glob("*.vmlinux")) and not list(cache_dir.glob("*.new"))
    assert loaded(plan, kernel)[1] == str(entry_of(cache_dir))


@pytest.mark.parametrize("warm", [True, False])
def test_a_read_only_cache(plan: Plan, monkeypatch: pytest.MonkeyPatch, warm: bool) -> None:
    import tempfile

    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are root's alone
        base = Path(name)
        base.chmod(0o755)
        os.chown(base, user, -1)
        kernel = base / "bzImage"
        kernel.write_bytes(bzimage())
        kernel.chmod(0o644)
        settle(kernel)
        monkeypatch.setenv("XDG_CACHE_HOME", name)
        boot = base / "vmm" / "boot"

        def work() -> None:
            os.setresuid(user, user, user)
            if warm:
                assert loaded(plan, kernel)[1] == str(entry_of(boot))
            else:
                boot.mkdir(0o700, parents=True)
            boot.chmod(0o500)
            assert loaded(plan, kernel)[1] == str(entry_of(boot) if warm else kernel)
            boot.chmod(0o700)

        loaded(plan, kernel, extract="off")
        import vmm_boot_linux.decompress  # noqa: F401  (the child may not be able to read the packages)

        assert in_child(work) == 0


def test_zeros_are_neither_kept_nor_loaded(tmp_path: Path, plan: Plan, cache_dir: Path) -> None:
    # as in a vmlinux: code, a .bss spelled out, and a little data in the midst of it and at its end
    body = bytearray(4 * MIB)
    body[:5000] = code(5000)
    body[2 * MIB + 77] = 1
    body[-1] = 2
    data = elf([Segment(bytes(body), 0x1000000)], tail=bytes(MIB) + b"end")
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(bzimage(payload(data, "lz4")))
    settle(kernel)
    for _ in range(2):
        _, context = plan(kernel)
        assert context.memory() == oracle(data)
        assert sum(size for _, _, _, size in context.load) <= 4 * cache.BLOCK
    assert entry_of(cache_dir).read_bytes() == data


def test_too_many_pieces_are_loaded_as_one(tmp_path: Path, plan: Plan) -> None:
    body = (b"x" + bytes(2 * cache.BLOCK - 1)) * (cache.MAX_EXTENTS + 1)
    data = elf([Segment(body, 0x1000000)])
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(bzimage(payload(data, "lz4"), init_size=64 * MIB))
    settle(kernel)
    for _ in range(2):
        _, context = plan(kernel, extract="on")
        assert context.memory() == oracle(data) and len(context.load) == 1


def test_a_dry_run_writes_nothing(kernel: Path, plan: Plan, cache_dir: Path) -> None:
    assert plan(kernel, dry_run=True)[1].files[-1][0] == str(kernel)
    assert not cache_dir.exists()
    loaded(plan, kernel)
    assert plan(kernel, dry_run=True)[1].files[-1][0] == str(entry_of(cache_dir))


def test_many_at_once(tmp_path: Path, plan: Plan, cache_dir: Path) -> None:
    data = elf(tail=code(2 * MIB, 11))
    kernel = tmp_path / "bzImage"
    kernel.write_bytes(bzimage(payload(data, "xz")))
    settle(kernel)
    context = multiprocessing.get_context("fork")
    count = 8
    barrier, answers = context.Barrier(count), context.SimpleQueue()

    def work() -> None:
        barrier.wait()
        memory, file = loaded(plan, kernel)
        answers.put((memory == oracle(data), file))

    children = [context.Process(target=work) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * count
    assert [answers.get() for _ in range(count)] == [(True, str(entry_of(cache_dir)))] * count
    assert sorted(path.suffix for path in cache_dir.iterdir()) == ["", ".key", ".stamp", ".vmlinux"]
    inode = entry_of(cache_dir).stat().st_ino
    loaded(plan, kernel)
    assert entry_of(cache_dir).stat().st_ino == inode


def test_old_kernels_and_leftovers_go(tmp_path: Path, plan: Plan, cache_dir: Path) -> None:
    kernel = tmp_path / "bzImage"
    for number in range(cache.KEEP + 3):
        kernel.write_bytes(bzimage(payload(elf(tail=bytes([number])), "gzip")))
        settle(kernel)
        assert loaded(plan, kernel)[0] == oracle(elf())
        (cache_dir / "killed.new").write_text("")
    for suffix in (".vmlinux", ".stamp", ".key"):
        assert len(list(cache_dir.glob("*" + suffix))) == cache.KEEP, suffix
    assert loaded(plan, kernel)[1].endswith(".vmlinux")
