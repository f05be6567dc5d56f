# SPDX-License-Identifier: Apache-2.0
"""Synthetic kernels: ELF files, bzImages and arm64 Images whose every header field a test can set."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import lz4.block
import zstandard

PT_LOAD, PT_INTERP, PT_NOTE = 1, 3, 4


@dataclass
class Segment:
    """A program header; `data` is put into the file at `offset`."""

    data: bytes
    paddr: int
    offset: int = 0x1000
    vaddr: int | None = None
    memsz: int | None = None
    filesz: int | None = None
    kind: int = PT_LOAD
    align: int = 0x1000


def pages(memory: Mapping[int, bytes]) -> dict[int, bytes]:
    """Guest memory as its pages that are not zero, from address -> bytes; the rest of RAM is zero."""
    result: dict[int, bytearray] = {}
    for address, data in memory.items():
        for start in range(address & -4096, address + len(data), 4096):
            part = data[max(start - address, 0) : start + 4096 - address]
            if any(part):
                at = max(address - start, 0)
                result.setdefault(start, bytearray(4096))[at : at + len(part)] = part
    return {start: bytes(page) for start, page in result.items()}


def note(name: bytes = b"Xen\0", kind: int = 18, desc: bytes = struct.pack("<Q", 0x1000100)) -> bytes:
    """One ELF note with 4-byte padding."""
    pad = -len(name) % 4
    return struct.pack("<III", len(name), len(desc), kind) + name + bytes(pad) + desc + bytes(-len(desc) % 4)


def code(size: int, seed: int = 1) -> bytes:
    """Bytes that are neither all alike nor random."""
    period = bytes((i * seed + (i >> 7)) & 0xFF for i in range(min(size, 1 << 15)))
    return (period * (size // len(period) + 1))[:size]


def kernel_segments(pvh: bool = True) -> list[Segment]:
    """Two loads as in a vmlinux: text, then data with a .bss; and the PVH note."""
    segments = [
        Segment(code(0x3000), 0x1000000, 0x1000, vaddr=0xFFFFFFFF81000000),
        Segment(code(0x800, 3), 0x1004000, 0x5000, vaddr=0xFFFFFFFF81004000, memsz=0x4000),
    ]
    if pvh:
        segments.append(Segment(note(b"GNU\0", 3, b"abcd") + note(), 0, 0x6000, kind=PT_NOTE, align=4))
    return segments


def elf(segments: Sequence[Segment] | None = None, *, entry: int = 0x1000000, phoff: int = 64,
        machine: int = 62, klass: int = 2, data: int = 1, kind: int = 2, phentsize: int = 56,
        phnum: int | None = None, tail: bytes = b"") -> bytes:
    """An ELF64 file; every keyword is a header field, wrong on demand."""
    segments = kernel_segments() if segments is None else segments
    count = len(segments) if phnum is None else phnum
    header = struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", klass, data, 1, kind, machine, 1, entry, phoff,
                         0, 0, 64, phentsize, count, 64, 0, 0)
    table = b"".join(
        struct.pack("<IIQQQQQQ", s.kind, 7, s.offset, s.paddr if s.vaddr is None else s.vaddr, s.paddr,
                    len(s.data) if s.filesz is None else s.filesz,
                    len(s.data) if s.memsz is None else s.memsz, s.align)
        for s in segments)
    end = max([phoff + len(table), *(s.offset + len(s.data) for s in segments)])
    image = bytearray(end)
    image[: len(header)] = header
    image[phoff : phoff + len(table)] = table
    for s in segments:
        image[s.offset : s.offset + len(s.data)] = s.data
    return bytes(image) + tail


def lz4_legacy(data: bytes) -> bytes:
    """What ``lz4 -l`` writes, blocks of 8 MiB."""
    out = struct.pack("<I", 0x184C2102)
    for start in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[start : start + (8 << 20)], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


def xz_kernel(data: bytes) -> bytes:
    """As scripts/xz_wrap.sh does it: CRC32, the x86 filter, LZMA2."""
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 32 << 20, "preset": 1}]
    return lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=filters)


#: name -> compressor, without the size that the kernel's build appends (gzip has its own).
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "xz": xz_kernel,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=1),
    "bzip2": lambda data: bz2.compress(data, 1),
    "lz4": lz4_legacy,
    "zstd": lambda data: zstandard.ZstdCompressor(level=3).compress(data),
}


def payload(data: bytes, method: str) -> bytes:
    """`data` as the kernel's build would put it into a bzImage."""
    packed = COMPRESSORS[method](data)
    return packed if method == "gzip" else packed + struct.pack("<I", len(data))


def bzimage(packed: bytes | None = None, *, tail: bytes = b"signature", cut: int | None = None,
            **fields: int) -> bytes:
    """A bzImage around a payload; `fields` overwrite header fields (see `offsets`); `cut`: bytes kept."""
    if packed is None:
        packed = payload(elf(), "gzip")
    setup_sects = 2
    start = 0x300
    body = code(start, 5) + packed
    body += bytes(-len(body) % 16)
    values = {
        "setup_sects": setup_sects, "syssize": len(body) // 16, "boot_flag": 0xAA55, "jump": 0x6AEB,
        "magic": 0x53726448, "version": 0x20F, "loadflags": 1, "initrd_addr_max": 0x7FFFFFFF,
        "kernel_alignment": 0x200000, "relocatable": 1, "xloadflags": 0x3F, "cmdline_size": 2047,
        "payload_offset": start, "payload_length": len(packed), "pref_address": 0x1000000,
        "init_size": 0x800000, "handover_offset": 0x40, **fields,
    }
    offsets = {
        "setup_sects": (0x1F1, "B"), "syssize": (0x1F4, "I"), "boot_flag": (0x1FE, "H"), "jump": (0x200, "H"),
        "magic": (0x202, "I"), "version": (0x206, "H"), "loadflags": (0x211, "B"),
        "initrd_addr_max": (0x22C, "I"), "kernel_alignment": (0x230, "I"), "relocatable": (0x234, "B"),
        "xloadflags": (0x236, "H"), "cmdline_size": (0x238, "I"), "payload_offset": (0x248, "I"),
        "payload_length": (0x24C, "I"), "pref_address": (0x258, "Q"), "init_size": (0x260, "I"),
        "handover_offset": (0x264, "I"),
    }
    head = bytearray((setup_sects + 1) * 512)
    for name, value in values.items():
        offset, kind = offsets[name]
        struct.pack_into("<" + kind, head, offset, value)
    image = bytes(head) + body + tail
    return image if cut is None else image[:cut]


def arm64_image(size: int = 0x8000, *, tail: bytes = b"", **fields: int) -> bytes:
    """An arm64 Image with a PE header, as Linux builds it; `fields` overwrite header fields (see `offsets`)."""
    values = {
        "mz": 0x5A4D, "text_offset": 0, "image_size": size + 0x6000, "flags": 0xA, "magic": 0x644D5241, "pe": 0x40,
        "pe_magic": 0x4550, "machine": 0xAA64, "sections": 2, "optional": 0xA0,
        "text_size": 0x3000, "text_at": 0x1000, "data_size": size - 0x4000, "data_at": 0x4000, **fields,
    }
    table = 0x40 + 24 + 0xA0
    offsets = {
        "mz": (0, "H"), "text_offset": (8, "Q"), "image_size": (16, "Q"), "flags": (24, "Q"), "magic": (56, "I"),
        "pe": (60, "I"), "pe_magic": (0x40, "I"), "machine": (0x44, "H"), "sections": (0x46, "H"),
        "optional": (0x54, "H"), "text_size": (table + 16, "I"), "text_at": (table + 20, "I"),
        "data_size": (table + 56, "I"), "data_at": (table + 60, "I"),
    }
    image = bytearray(code(size, 9))
    image[: table + 80] = bytes(table + 80)
    for name, value in values.items():
        offset, kind = offsets[name]
        struct.pack_into("<" + kind, image, offset, value)
    return bytes(image) + tail


#: compression of an EFI zboot image -> what its header calls it (drivers/firmware/efi/libstub/Makefile.zboot)
ZBOOT_NAMES = {"gzip": b"gzip", "lz4": b"lz4", "lzma": b"lzma", "xz": b"xzkern", "zstd": b"zstd22"}


def zboot(data: bytes | None = None, method: str = "gzip", *, packed: bytes | None = None, name: bytes | None = None,
          machine: int = 0xAA64, cut: int | None = None, tail: bytes = b"signature", **fields: int) -> bytes:
    """An EFI zboot image around `data`; `fields`: payload_offset, payload_size, pe."""
    if packed is None:
        packed = payload(arm64_image() if data is None else data, method)
    size = len(packed) - (0 if method == "gzip" else 4)
    values = {"payload_offset": 0x200, "payload_size": size, "pe": 0x40, **fields}
    head = bytearray(0x200)
    struct.pack_into("<4s4sII8x32s", head, 0, b"MZ", b"zimg", values["payload_offset"], values["payload_size"],
                     ZBOOT_NAMES[method] if name is None else name)
    struct.pack_into("<II", head, 0x38, 0x818223CD, values["pe"])
    struct.pack_into("<4sHH", head, 0x40, b"PE", machine, 0)
    image = bytes(head) + packed + tail
    return image if cut is None else image[:cut]
