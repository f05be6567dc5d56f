# SPDX-License-Identifier: Apache-2.0
"""What is claimed, what is refused with which words, and what gets loaded where."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path
from typing import Any, cast

import pytest
from builders import PT_INTERP, PT_NOTE, Segment, bzimage, code, elf, kernel_segments, note, pages, payload
from conftest import MIB, Context, Plan
from elftools.elf.elffile import ELFFile

from vmm_boot_linux.plugin import vmm_boot_probe
from vmmcore.errors import UserError


def probe(data: bytes) -> object:
    return vmm_boot_probe("/k", data[:65536], len(data))


def oracle(data: bytes) -> dict[int, bytes]:
    """pyelftools' view of the memory that a kernel wants."""
    segments = ELFFile(io.BytesIO(data)).iter_segments("PT_LOAD")
    return pages({s["p_paddr"]: s.data() for s in segments})


@pytest.mark.parametrize("data", [
    b"", b"\x7f", b"MZ", b"#!/bin/sh\n", bytes(0x1000), b"MZ\0\0zima" + bytes(4096),
    b"\x1f\x8b\x08" + bytes(100), gzip.compress(bytes(1000)), bzimage(magic=0), bzimage()[:0x204],
], ids=["empty", "one byte", "MZ", "script", "zeros", "no zimg", "no gzip", "gzip", "no HdrS", "cut in HdrS"])
def test_foreign_files_are_left_to_others(data: bytes) -> None:
    assert probe(data) is None


BZIMAGE_LIES: list[tuple[dict[str, Any], str]] = [
    ({"cut": 0x250}, "truncated: a bzImage of 592 bytes"),
    ({"cut": 0x700}, "truncated: its header promises"),
    ({"boot_flag": 0}, "boot flag 0x0000"),
    ({"version": 0x205}, "boot protocol 2.05"),
    ({"version": 0x20B}, "boot protocol 2.11"),
    ({"loadflags": 0}, "zImage"),
    ({"xloadflags": 0x3E}, "32-bit kernel"),
    ({"jump": 0x6A90}, "it would end at"),
    ({"jump": 0xFFEB}, "it would end at 0x301"),
    ({"jump": 0x10EB}, "it would end at 0x212"),
    ({"setup_sects": 255}, "truncated: its header promises"),
    ({"syssize": 0}, "syssize is 0"),
    ({"syssize": 0x20}, "512 bytes of code"),
    ({"syssize": 0xFFFFFFFF}, "truncated: its header promises"),
    ({"init_size": 0x100}, "init_size 0x100 is less than its code"),
    ({"kernel_alignment": 0}, "kernel_alignment 0x0"),
    ({"kernel_alignment": 0x300000}, "kernel_alignment 0x300000"),
    ({"kernel_alignment": 0x10}, "kernel_alignment 0x10"),
    ({"pref_address": 0}, "pref_address 0x0"),
    ({"pref_address": 1 << 63}, "pref_address 0x8000000000000000"),
    ({"pref_address": 0x1000001}, "pref_address 0x1000001"),
    ({"cmdline_size": 0}, "cmdline_size 0"),
    ({"cmdline_size": 0xFFFFFFFF}, "cmdline_size 4294967295"),
    ({"initrd_addr_max": 0xFFFF}, "initrd_addr_max 0xffff"),
    ({"handover_offset": 0x7FFFFFFF}, "handover_offset 0x7fffffff"),
    ({"payload_offset": 0x7FFFFFFF}, "payload (0x7fffffff+"),
    ({"payload_length": 0xFFFFFFFF}, "payload (0x300+0xffffffff)"),
    ({"payload_offset": 0xFFFFFFFF, "payload_length": 0xFFFFFFFF}, "payload (0xffffffff+0xffffffff)"),
]


@pytest.mark.parametrize(("fields", "message"), BZIMAGE_LIES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_lying_bzimage_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        probe(bzimage(**fields))
    text = str(caught.value)
    assert text.startswith("--kernel: /k ") and message in text and "; " in text and "\n" not in text


def load(**fields: Any) -> list[Segment]:
    """The standard kernel with another first segment."""
    first = {"data": code(0x3000), "paddr": 0x1000000, "offset": 0x1000, **fields}
    return [Segment(**first), *kernel_segments()[1:]]


def noted(data: bytes, **fields: Any) -> list[Segment]:
    return [*kernel_segments(pvh=False), Segment(data, 0, 0x6000, kind=PT_NOTE, **fields)]


ELF_LIES: list[tuple[bytes, str]] = [
    (elf()[:40], "truncated: an ELF file of 40 bytes"),
    (elf(machine=20), "another machine (e_machine 20)"),
    (elf(machine=3, klass=1), "another machine (e_machine 3)"),
    (elf(klass=1), "32-bit ELF"),
    (elf(data=2, machine=62 << 8), "big-endian"),
    (elf(kind=1), "type 1 (object file"),
    (elf(kind=4), "type 4"),
    (elf(phnum=0), "0 program headers"),
    (elf(phnum=65), "65 program headers"),
    (elf(phnum=0xFFFF), "65535 program headers"),
    (elf(phentsize=32), "e_phentsize 32"),
    (elf()[:64] + elf()[64:100], "program headers are at 0x40"),
    (elf()[:32] + struct.pack("<Q", (1 << 64) - 8) + elf()[40:], "program headers are at 0xfffffffffffffff8"),
    (elf()[:0x5400], "truncated: segment at 0x1004000"),
    (elf(load(memsz=0x100)), "more bytes in the file (0x3000) than in memory (0x100)"),
    (elf(load(filesz=1 << 62, memsz=1 << 62)), "truncated: segment at 0x1000000"),
    (elf(load(paddr=(1 << 64) - 0x1000)), "wraps around"),
    (elf(load(memsz=(1 << 64) - 1)), "wraps around"),
    (elf(load(vaddr=(1 << 64) - 0x1000)), "wraps around"),
    (elf(load(memsz=0x4001)), "0x1000000 and 0x1004000 overlap"),
    (elf(load(paddr=0x1005000)), "0x1004000 and 0x1005000 overlap"),
    (elf(load(paddr=0x1004000)), "0x1004000 and 0x1004000 overlap"),
    (elf(entry=0x5000), "entry point 0x5000 is in no segment"),
    (elf(entry=0x1006000), "entry point 0x1006000 is in no segment"),  # in .bss: zeros are no code
    (elf([Segment(b"x", 0, kind=PT_NOTE)]), "no PT_LOAD"),
    (elf([Segment(b"/lib/ld.so\0", 0, 0x800, kind=PT_INTERP), *kernel_segments()]), "dynamic loader"),
    (elf(noted(note(), filesz=1 << 40)), "truncated: its notes"),
    (elf(noted(note()[:20])), "damaged note"),
    (elf(noted(struct.pack("<III", 0xFFFFFFFF, 4, 18))), "damaged note"),
    (elf(noted(struct.pack("<III", 4, 0xFFFFFFFF, 18) + b"Xen\0")), "damaged note"),
    (elf(noted(note(desc=b"ab"))), "an address of 2 bytes"),
    (elf(noted(note(desc=struct.pack("<Q", 1 << 40)))), "PVH note: entry 0x10000000000"),
    (elf(noted(note(desc=struct.pack("<I", 0x1006000)))), "PVH note: entry 0x1006000"),
]


@pytest.mark.parametrize(("data", "message"), ELF_LIES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_lying_elf_is_named(data: bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        probe(data)
    text = str(caught.value)
    assert text.startswith("--kernel: /k ") and message in text and "; " in text and "\n" not in text


def test_an_elf_loads_what_pyelftools_sees(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf())
    entry, context = plan(path)
    assert context.memory() == oracle(elf())
    assert entry == {"protocol": "pvh", "rip": 0x1000100, "initramfs": None}


def test_an_elf_by_the_64_bit_protocol(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf())
    assert plan(path, protocol="linux64")[0] == {
        "protocol": "linux64", "rip": 0x1000000, "initramfs": None, "setup_header": None}
    path.write_bytes(elf(kernel_segments(pvh=False)))
    assert plan(path)[0]["protocol"] == "linux64"
    with pytest.raises(UserError, match="no PVH entry"):
        plan(path, protocol="pvh")


def test_a_virtual_entry_is_made_physical(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf(entry=0xFFFFFFFF81000040))
    assert plan(path, protocol="linux64")[0]["rip"] == 0x1000040


def test_headers_and_notes_far_behind_the_head(tmp_path: Path, plan: Plan) -> None:
    segments = kernel_segments()
    segments[2].offset = 0x30000
    data = elf(segments, phoff=0x20000)
    path = tmp_path / "vmlinux"
    path.write_bytes(data)
    entry, context = plan(path)
    assert entry["protocol"] == "pvh" and entry["rip"] == 0x1000100
    assert context.memory() == oracle(data)
    # A lie out there is found too, at planning.
    path.write_bytes(elf([*segments, Segment(b"", 0x1002000, memsz=64)], phoff=0x20000))
    with pytest.raises(UserError, match="overlap"):
        plan(path)


def test_notes_aligned_to_eight_bytes(tmp_path: Path, plan: Plan) -> None:
    # Like .note.gnu.property: names and descriptions are padded to 8, so the second note is not where
    # padding to 4 would put it.
    first = struct.pack("<III", 4, 4, 5) + b"GNU\0" + bytes(4) + b"abcd" + bytes(4)
    second = struct.pack("<III", 4, 4, 18) + b"Xen\0" + bytes(4) + struct.pack("<I", 0x1000200)
    path = tmp_path / "vmlinux"
    path.write_bytes(elf(noted(first + second, align=8)))
    assert plan(path)[0]["rip"] == 0x1000200


def test_a_bzimage_as_it_is(kernel: Path, plan: Plan) -> None:
    entry, context = plan(kernel, extract="off")
    data = kernel.read_bytes()
    assert entry["protocol"] == "linux64" and entry["rip"] == 0x1000200
    assert entry["setup_header"] == data[0x1F1:0x26C]
    assert context.memory() == pages({0x1000000: data[1536:-len(b"signature")]})


def test_an_extracted_bzimage_loads_its_elf(kernel: Path, plan: Plan) -> None:
    entry, context = plan(kernel)
    assert context.memory() == oracle(elf())
    assert entry["protocol"] == "linux64" and entry["rip"] == 0x1000000
    assert entry["setup_header"] == kernel.read_bytes()[0x1F1:0x26C]
    assert plan(kernel, protocol="pvh")[0]["protocol"] == "pvh"


def test_extract_off_has_no_pvh(kernel: Path, plan: Plan) -> None:
    with pytest.raises(UserError, match="pvh needs an ELF kernel"):
        plan(kernel, protocol="pvh", extract="off")


@pytest.mark.parametrize("extract", ["on", "off"])
def test_the_initramfs_is_high_and_clear_of_the_kernel(
        kernel: Path, tmp_path: Path, plan: Plan, extract: str) -> None:
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(code(5000, 7))
    entry, context = plan(kernel, 64 * MIB, initramfs, extract=extract)
    assert entry["initramfs"] == [64 * MIB - 0x2000, 5000]
    assert context.memory()[64 * MIB - 0x2000] == code(5000, 7)[:4096]
    # More RAM than the kernel can reach with its initramfs
    entry, _ = plan(kernel, 4096 * MIB, initramfs, extract=extract)
    assert entry["initramfs"] == [0x80000000 - 0x2000, 5000]


def test_an_initramfs_that_only_fits_below(kernel: Path, tmp_path: Path, plan: Plan) -> None:
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(b"")
    with open(initramfs, "r+b") as file:
        file.truncate(14 * MIB)
    entry, _ = plan(kernel, 25 * MIB, initramfs)  # the kernel has 16..24 MiB
    assert entry["initramfs"] == [2 * MIB, 14 * MIB]


def test_an_initramfs_that_does_not_fit(kernel: Path, tmp_path: Path, plan: Plan) -> None:
    initramfs = tmp_path / "initramfs"
    initramfs.touch()
    with pytest.raises(UserError, match="--initramfs: .* is empty"):
        plan(kernel, initramfs=initramfs)
    with open(initramfs, "r+b") as file:
        file.truncate(100 * MIB)
    with pytest.raises(UserError, match=r"--initramfs: .*does not fit.*--memory size=\d+M") as caught:
        plan(kernel, 64 * MIB, initramfs)
    mend = int(str(caught.value).split("size=")[1].split("M")[0])
    assert plan(kernel, mend * MIB, initramfs)[0]["initramfs"][1] == 100 * MIB
    with open(initramfs, "r+b") as file:
        file.truncate(3000 * MIB)
    with pytest.raises(UserError, match="--initramfs: .*below 0x7fffffff.*make it smaller"):
        plan(kernel, 8192 * MIB, initramfs)
    with pytest.raises(UserError, match="--initramfs: .*not a regular file"):
        plan(kernel, initramfs=tmp_path)
    with pytest.raises(UserError, match="--initramfs: "):
        plan(kernel, initramfs=tmp_path / "none")


@pytest.mark.parametrize("options", [{}, {"extract": "off"}])
def test_a_kernel_that_does_not_fit(kernel: Path, plan: Plan, options: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"--memory size=: too small for .*--memory size=\d+M") as caught:
        plan(kernel, 17 * MIB, **options)
    mend = int(str(caught.value).split("use --memory size=")[1].split("M")[0])
    plan(kernel, mend * MIB, **options)


def test_an_elf_for_low_memory_is_refused(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf([Segment(code(0x100), 0x8000)], entry=0x8000))
    with pytest.raises(UserError, match="loaded at 0x8000, below 0x100000"):
        plan(path)


def test_a_file_that_changes_after_the_probe(kernel: Path, plan: Plan) -> None:
    with open(kernel, "rb") as file:
        claim = vmm_boot_probe(str(kernel), file.read(65536), kernel.stat().st_size)
    kernel.write_bytes(bzimage(payload(elf(), "xz"))[:0x900])
    assert claim is not None
    with pytest.raises(UserError, match="truncated"):
        claim.plan(cast(Any, Context(64 * MIB)))


def test_debian_kernels(debian: Path, plan: Plan) -> None:
    entry, context = plan(debian, extract="on")
    vmlinux = Path(context.files[-1][0]).read_bytes()
    assert context.memory() == oracle(vmlinux)
    assert entry["rip"] == ELFFile(io.BytesIO(vmlinux)).header["e_entry"]
    assert entry["setup_header"][0x11:0x15] == b"HdrS"
    pvh, _ = plan(debian, protocol="pvh")
    assert pvh["protocol"] == "pvh" and pvh["rip"] > entry["rip"]
    plain, context = plan(debian, extract="off")
    assert plain["rip"] == entry["rip"] + 0x200
