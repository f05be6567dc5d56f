# SPDX-License-Identifier: Apache-2.0
"""arm64 kernels: Image, gzip-compressed Image, EFI zboot. Where they and an initramfs go; what is refused, and how."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from builders import ZBOOT_NAMES, arm64_image, bzimage, code, elf, pages, payload, zboot
from conftest import GIB, MIB, Context, Plan, debian_arm64, settle

from vmm_boot_linux.plugin import vmm_boot_probe
from vmmcore.errors import UserError

ARM = {"arch": "aarch64"}
LOAD = GIB + 4 * MIB
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gzip file": partial(gzip.compress, compresslevel=1),
    **{f"zboot {method}": partial(zboot, method=method) for method in ZBOOT_NAMES}}


@pytest.fixture(autouse=True)
def arm_host(host: Callable[[str], None]) -> None:
    host("aarch64")


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    settle(path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return written(tmp_path / "Image", arm64_image())


def refusal(call: Callable[[], object]) -> str:
    """The one line."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and "; " in text
    return text


def test_an_image_goes_to_the_first_free_2_mib(image: Path, plan: Plan) -> None:
    entry, context = plan(image, **ARM)
    assert entry == {"protocol": "arm64", "pc": LOAD}
    assert context.memory() == pages({LOAD: arm64_image()})


def test_text_offset_counts_from_2_mib(tmp_path: Path, plan: Plan) -> None:
    path = written(tmp_path / "Image", arm64_image(text_offset=0x80000))
    assert plan(path, **ARM)[0]["pc"] == LOAD + 0x80000
    # Before Linux 3.17 the header does not say: it is 0x80000, and how much memory it takes nobody knows.
    path = written(tmp_path / "old", arm64_image(image_size=0, text_offset=0))
    entry, context = plan(path, **ARM)
    assert entry["pc"] == LOAD + 0x80000 and context.memory() == pages({LOAD + 0x80000: arm64_image(image_size=0)})


def test_what_is_behind_image_size_is_not_loaded(tmp_path: Path, plan: Plan) -> None:
    data = arm64_image(image_size=0x8000)
    path = written(tmp_path / "signed", data + b"a signature" * 1000)
    assert plan(path, **ARM)[1].memory() == pages({LOAD: data})


def test_a_kernel_without_a_pe_header(tmp_path: Path, plan: Plan) -> None:
    path = written(tmp_path / "Image", arm64_image(mz=0x1234, pe=0xFFFFFFFF, pe_magic=0))
    assert plan(path, **ARM)[0]["pc"] == LOAD


@pytest.mark.parametrize("form", COMPRESSED)
def test_compressed_kernels_are_the_same_ones(tmp_path: Path, plan: Plan, cache_dir: Path, form: str) -> None:
    data = arm64_image(3 * MIB, text_size=0x1000)
    path = written(tmp_path / "vmlinuz", COMPRESSED[form](data))
    for _ in range(2):  # decompressed, then found
        entry, context = plan(path, **ARM)
        assert entry == {"protocol": "arm64", "pc": LOAD} and context.memory() == pages({LOAD: data})
        assert context.files[-1][0] == str(next(cache_dir.glob("*.vmlinux")))


@pytest.mark.parametrize("form", ["gzip file", "zboot zstd"])
def test_a_run_that_may_change_nothing_has_it_in_memory(tmp_path: Path, plan: Plan, cache_dir: Path, form: str) -> None:
    path = written(tmp_path / "vmlinuz", COMPRESSED[form](arm64_image()))
    entry, context = plan(path, dry_run=True, **ARM)
    assert entry["pc"] == LOAD and context.memory() == pages({LOAD: arm64_image()}) and not cache_dir.exists()


def test_without_a_place_for_a_cache_it_is_in_memory(
        tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/x")
    path = written(tmp_path / "vmlinuz", zboot())
    assert plan(path, **ARM)[1].memory() == pages({LOAD: arm64_image()})


@pytest.mark.parametrize("form", COMPRESSED)
def test_a_damaged_payload_is_named(tmp_path: Path, plan: Plan, cache_dir: Path, form: str) -> None:
    data = arm64_image(3 * MIB)
    kept = 4 if form == "gzip file" else len(b"signature") + 4  # the decompressed size
    whole = COMPRESSED[form](data)
    bad = whole[:-kept - 2000] + bytes(2000) + whole[-kept:]
    if form == "zboot lz4":  # its frames have no checksum: only lost bytes are noticed
        packed = payload(data, "lz4")
        bad = zboot(packed=packed[:3000] + packed[-4:], method="lz4")
    path = written(tmp_path / "vmlinuz", bad)
    assert "--kernel: " in (text := refusal(lambda: plan(path, **ARM))) and " is damaged: " in text
    assert not list(cache_dir.glob("*.vmlinux"))


@pytest.mark.parametrize("inner", [elf(), bytes(4096), arm64_image()[:32], zboot(), bzimage()],
                         ids=["ELF", "zeros", "cut", "zboot", "bzImage"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_zboot_image_of_something_else(tmp_path: Path, plan: Plan, inner: bytes, dry_run: bool) -> None:
    path = written(tmp_path / "vmlinuz", zboot(inner))
    assert "--kernel: " in refusal(lambda: plan(path, dry_run=dry_run, **ARM))


@pytest.mark.parametrize("packed", [b"\x89LZO\0\r\n\x1a\n" + bytes(100), b"unknown compression" * 9])
def test_an_unknown_compression(tmp_path: Path, plan: Plan, packed: bytes) -> None:
    path = written(tmp_path / "vmlinuz", zboot(packed=packed, method="zstd", name=b"lzo"))
    assert "cannot be decompressed" in refusal(lambda: plan(path, **ARM))


IMAGE_LIES: list[tuple[bytes, str]] = [
    (arm64_image(flags=0xB), "big-endian"),
    (arm64_image(text_offset=0x200000), "text_offset 0x200000"),
    (arm64_image(text_offset=1 << 63), "text_offset 0x8000000000000000"),
    (arm64_image(text_offset=0x10), "text_offset 0x10"),
    (arm64_image(image_size=63), "image_size 0x3f"),
    (arm64_image(image_size=(1 << 64) - 1), "image_size 0xffffffffffffffff"),
    (arm64_image()[:64], "PE header is at 0x40, the file has 0x40"),
    (arm64_image(pe=0xFFFFFFFF), "PE header is at 0xffffffff"),
    (arm64_image(pe=0), "PE header is at 0x0"),
    (arm64_image(pe_magic=1), "wrong magic number"),
    (arm64_image(machine=0x8664), "machine 0x8664"),
    (arm64_image(sections=0xFFFF), "65535 sections"),
    (arm64_image(optional=0xFFFF), "65535 bytes of optional header"),
    (arm64_image()[:0x100], "its sections are at 0xf8"),
    (arm64_image()[:0x7FFF], "should have 0x8000 bytes, the file has 0x7fff"),
    (arm64_image(data_size=0xFFFFFFFF, data_at=0xFFFFFFFF), "should have 0x1fffffffe bytes"),
    (zboot(cut=63), "EFI zboot image of 63 bytes"),
    (zboot(pe=1 << 31), "PE header is at 0x80000000"),
    (zboot(payload_offset=0), "bytes at 0x0"),
    (zboot(payload_size=0), "a payload of 0x0 bytes"),
    (zboot(payload_size=0xFFFFFFFF), "0x200+0xffffffff"),
    (zboot(payload_offset=0xFFFFFFFF), "0xffffffff+"),
    (zboot(method="zstd", tail=b"", cut=-1), "truncated: its payload"),
    (zboot(name=b"x" * 32), "compression has no name"),
]


@pytest.mark.parametrize(("data", "message"), IMAGE_LIES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_lying_kernel_is_named(data: bytes, message: str) -> None:
    text = refusal(lambda: vmm_boot_probe("/k", data[:65536], len(data)))
    assert text.startswith("--kernel: /k ") and message in text


def test_a_pe_header_far_behind_the_head(tmp_path: Path, plan: Plan) -> None:
    data = bytearray(arm64_image(0x40000, pe=0x20000))
    data[0x20000:0x20140] = data[0x40:0x180]
    data[0x40:0x180] = bytes(0x140)
    assert plan(written(tmp_path / "Image", bytes(data)), **ARM)[0]["pc"] == LOAD
    data[0x20000] = 0
    path = written(tmp_path / "bad", bytes(data))
    assert "wrong magic number" in refusal(lambda: plan(path, **ARM))


def test_random_damage_never_gets_past_the_checks(tmp_path: Path, plan: Plan) -> None:
    """Whatever a header says, the answer is a plan inside of file and RAM, one line, or "not mine"."""
    chosen = random.Random(4)
    seeds = [arm64_image(), zboot(), zboot(method="zstd"), gzip.compress(arm64_image())]
    path = tmp_path / "vmlinuz"
    planned = 0
    for _ in range(600):
        data = bytearray(chosen.choice(seeds))
        for _ in range(chosen.randrange(1, 5)):
            at = chosen.randrange(min(len(data), 0x180))
            data[at] = chosen.choice((0, 1, 0x7F, 0x80, 0xFF, chosen.randrange(256)))
        path.write_bytes(data[: chosen.choice((len(data), chosen.randrange(len(data))))])
        try:
            if vmm_boot_probe(str(path), path.read_bytes()[:65536], path.stat().st_size) is None:
                continue
            _, context = plan(path, **ARM)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            context.memory()  # which checks the load list
            planned += 1
    assert planned > 50


@pytest.mark.parametrize("data", [arm64_image(), gzip.compress(arm64_image()), zboot(), zboot(cut=70)],
                         ids=["Image", "gzip", "zboot", "broken"])
def test_an_arm64_kernel_on_x86_64(tmp_path: Path, plan: Plan, host: Callable[[str], None], data: bytes) -> None:
    host("x86_64")
    text = refusal(lambda: plan(written(tmp_path / "Image", data)))
    assert text.startswith("--kernel: ") and "for aarch64, and this machine is x86_64; give an x86-64 bzImage" in text


@pytest.mark.parametrize(("data", "what"), [
    (bzimage(), "a bzImage for x86_64"), (elf(), "an ELF file for x86_64"),
    (bzimage(cut=0x700), "a bzImage for x86_64"), (elf(machine=183), "an ELF file, which no"),
    (zboot(machine=0x5064), "an EFI zboot image for riscv64"),
], ids=["bzImage", "ELF", "broken bzImage", "arm64 ELF", "riscv64 zboot"])
def test_another_kernel_on_aarch64(tmp_path: Path, plan: Plan, data: bytes, what: str) -> None:
    text = refusal(lambda: plan(written(tmp_path / "vmlinuz", data), **ARM))
    assert text.startswith("--kernel: ") and what in text and "; give an arm64 Image" in text


def test_options_of_the_other_architecture(image: Path, tmp_path: Path, plan: Plan) -> None:
    assert "protocol=: pvh is for x86-64" in refusal(lambda: plan(image, protocol="pvh", **ARM))
    assert plan(image, extract="off", **ARM)[0]["pc"] == LOAD  # there is nothing to extract
    path = written(tmp_path / "vmlinuz", zboot())
    assert "extract=: " in refusal(lambda: plan(path, extract="off", **ARM))


def sparse(path: Path, size: int) -> Path:
    path.touch()
    with open(path, "r+b") as file:
        file.truncate(size)
    return path


def test_the_initramfs_is_as_high_as_it_may_be(image: Path, tmp_path: Path, plan: Plan) -> None:
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(code(5000, 7))
    entry, context = plan(image, 64 * MIB, initramfs, **ARM)
    assert entry["initramfs"] == [GIB + 64 * MIB - 0x2000, 5000]
    assert context.memory()[GIB + 64 * MIB - 0x2000] == code(5000, 7)[:4096]
    assert plan(image, 8 * GIB, initramfs, **ARM)[0]["initramfs"] == [0xFC000000 - 0x2000, 5000]


def test_an_initramfs_that_fits_only_high(image: Path, tmp_path: Path, plan: Plan) -> None:
    initramfs = sparse(tmp_path / "initramfs", 3 * GIB)
    assert plan(image, 8 * GIB, initramfs, **ARM)[0]["initramfs"][0] == 4 * GIB + 8 * GIB - (0xFC000000 - GIB) - 3 * GIB
    # and not beyond 32 GiB of the gibibyte in which the kernel is
    entry, _ = plan(image, 100 * GIB, initramfs, **ARM)
    assert entry["initramfs"] == [33 * GIB - 3 * GIB, 3 * GIB]


def test_an_initramfs_that_does_not_fit(image: Path, tmp_path: Path, plan: Plan) -> None:
    initramfs = sparse(tmp_path / "initramfs", 100 * MIB)
    text = refusal(lambda: plan(image, 64 * MIB, initramfs, **ARM))
    mend = int(text.split("--memory size=")[1].split("M")[0])
    assert plan(image, mend * MIB, initramfs, **ARM)[0]["initramfs"][1] == 100 * MIB
    sparse(initramfs, 40 * GIB)
    assert "make it smaller" in refusal(lambda: plan(image, 100 * GIB, initramfs, **ARM))
    sparse(initramfs, 0)
    assert "is empty" in refusal(lambda: plan(image, initramfs=initramfs, **ARM))


def test_a_kernel_that_does_not_fit(tmp_path: Path, plan: Plan) -> None:
    path = written(tmp_path / "Image", arm64_image(image_size=60 * MIB))
    text = refusal(lambda: plan(path, 63 * MIB, **ARM))
    assert plan(path, 64 * MIB, **ARM)[0]["pc"] == LOAD
    assert plan(path, int(text.split("use --memory size=")[1].split("M")[0]) * MIB, **ARM)[0]["pc"] == LOAD


def test_a_file_that_changes_after_the_probe(image: Path) -> None:
    claim = vmm_boot_probe(str(image), image.read_bytes()[:65536], image.stat().st_size)
    image.write_bytes(arm64_image()[:0x4000])
    assert claim is not None
    assert "truncated" in refusal(lambda: claim.plan(cast(Any, Context(64 * MIB, arch="aarch64"))))


@pytest.mark.parametrize("flavour", ["cloud-arm64", "arm64"])
def test_debian_kernels(flavour: str, tmp_path: Path, plan: Plan) -> None:
    kernel = debian_arm64(flavour)
    data = kernel.read_bytes()
    entry, context = plan(kernel, **ARM)
    memory = context.memory()
    assert entry["pc"] == LOAD and memory == pages({LOAD: data[: int.from_bytes(data[16:24], "little")]})
    for form in ("gzip file", "zboot zstd"):
        packed = written(tmp_path / "packed", COMPRESSED[form](data))
        assert plan(packed, **ARM)[1].memory() == memory
