# SPDX-License-Identifier: Apache-2.0
"""What a kernel finds at its entry: memory map, boot structures, page tables, first registers.

Sources: Linux ``Documentation/arch/x86/boot.rst`` ("64-bit boot protocol") and ``zero-page.rst``;
Xen ``public/arch-x86/hvm/start_info.h`` (PVH); Intel SDM vol. 3A chapters 3 and 4. Pure functions.
"""

from __future__ import annotations

import struct

from . import addresses as at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Map = list[tuple[int, int, int]]

RAM, RESERVED = 1, 2

HEADER = 0x1F1  # the setup header's place in the zero page
HEADER_END = 0x290  # what follows belongs to others
E820_COUNT, E820_TABLE, E820_MAX = 0x1E8, 0x2D0, 128
PVH_MAP_COUNT = 48  # in struct hvm_start_info
PVH_MAGIC = 0x336EC578

# Segment attributes: bits 40..55 of a descriptor.
CODE64, CODE32, DATA, TSS = 0xA09B, 0xC09B, 0xC093, 0x008B
TSS_SELECTOR, CODE_SELECTOR, DATA_SELECTOR = 0x08, 0x10, 0x18  # Linux wants its code at 0x10, data at 0x18
CR0_PE, CR0_ET, CR0_PG = 1, 1 << 4, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10


def memory_map(ram: Sequence[Sequence[int]], reserved: Sequence[tuple[int, int]] = ()) -> Map:
    """(address, size, type) in ascending order: `ram` without 640 KiB..1 MiB, and `reserved`."""
    entries: Map = []
    for base, size in ram:
        if base == 0:
            entries += [(0, at.LOW_RAM_END, RAM), (at.HIGH_RAM, size - at.HIGH_RAM, RAM)]
        else:
            entries.append((base, size, RAM))
    entries += [(base, size, RESERVED) for base, size in reserved]
    entries.sort()
    return entries


def zero_page(entries: Map, *, header: bytes | None, cmdline: int, rsdp: int,
              initramfs: Sequence[int] | None = None) -> bytes:
    """struct boot_params. `header`: the kernel's own setup header, from 0x1f1 on; None: made up."""
    page = bytearray(4096)
    put = struct.pack_into
    if header:
        header = header[:HEADER_END - HEADER]
        page[HEADER:HEADER + len(header)] = header
    else:
        put("<H", page, 0x1FE, 0xAA55)  # boot_flag
        put("<4sH", page, 0x202, b"HdrS", 0x020C)  # header, version
        put("<I", page, 0x230, 0x1000000)  # kernel_alignment
    page[0x210] = 0xFF  # type_of_loader: none with a number
    put("<I", page, 0x228, cmdline & 0xFFFFFFFF)  # cmd_line_ptr, ext_cmd_line_ptr
    put("<I", page, 0x0C8, cmdline >> 32)
    start, size = initramfs or (0, 0)
    put("<II", page, 0x218, start & 0xFFFFFFFF, size & 0xFFFFFFFF)  # ramdisk_image, ramdisk_size
    put("<II", page, 0x0C0, start >> 32, size >> 32)  # their upper halves
    put("<Q", page, 0x070, rsdp)  # acpi_rsdp_addr
    if len(entries) > E820_MAX:
        raise ValueError(f"{len(entries)} ranges in the memory map, the zero page holds {E820_MAX}")
    page[E820_COUNT] = len(entries)
    put("<" + "QQI" * len(entries), page, E820_TABLE, *(n for entry in entries for n in entry))
    return bytes(page)


def pvh(entries: Map, *, cmdline: int, rsdp: int, initramfs: Sequence[int] | None = None) -> bytes:
    """From 0x6000: struct hvm_start_info (version 1), the module list, and at 0x7000 the memory map."""
    blob = bytearray(at.PVH_MEMORY_MAP - at.PVH_START_INFO + 24 * len(entries))
    struct.pack_into("<IIIIQQQQII", blob, 0, PVH_MAGIC, 1, 0, 1 if initramfs else 0,
                     at.PVH_MODULES if initramfs else 0, cmdline, rsdp, at.PVH_MEMORY_MAP, len(entries), 0)
    if initramfs:
        struct.pack_into("<QQQQ", blob, at.PVH_MODULES - at.PVH_START_INFO, *initramfs, 0, 0)
    for n, (base, size, kind) in enumerate(entries):
        struct.pack_into("<QQII", blob, at.PVH_MEMORY_MAP - at.PVH_START_INFO + 24 * n, base, size, kind, 0)
    return bytes(blob)


def page_tables() -> bytes:
    """At 0xa000: PML4, page directory pointers, page directory: the first GiB mapped to itself."""
    present_writable = 0x3
    blob = bytearray(3 * 4096)
    struct.pack_into("<Q", blob, 0, at.PDPT | present_writable)
    struct.pack_into("<Q", blob, at.PDPT - at.PML4, at.PAGE_DIRECTORY | present_writable)
    large = present_writable | 0x80  # 2 MiB page
    struct.pack_into("<512Q", blob, at.PAGE_DIRECTORY - at.PML4, *range(large, at.GIB | large, 2 << 20))
    return bytes(blob)


def low_page(code: int) -> bytes:
    """From 0x40e to 0x528: EBDA pointer, GDT (null, TSS, `code`, data), an empty IDT."""
    def flat(attributes: int) -> int:
        return (attributes & 0xF0FF) << 40 | 0xF << 48 | 0xFFFF

    blob = bytearray(at.IDT + 8 - at.EBDA_POINTER)
    struct.pack_into("<H", blob, 0, at.LOW_RAM_END >> 4)
    struct.pack_into("<4Q", blob, at.GDT - at.EBDA_POINTER, 0, TSS << 40 | 0x67, flat(code), flat(DATA))
    return bytes(blob)


def registers(protocol: str, rip: int) -> dict[str, Any]:
    """First state of vCPU 0. Segments are [selector, attributes, base, limit]; all else plain numbers."""
    long_mode = protocol == "linux64"
    code = [CODE_SELECTOR, CODE64 if long_mode else CODE32, 0, 0xFFFFFFFF]
    data = [DATA_SELECTOR, DATA, 0, 0xFFFFFFFF]
    state: dict[str, Any] = {
        "protocol": protocol, "rip": rip, "rflags": 2,
        "cs": code, "ds": data, "es": data, "fs": data, "gs": data, "ss": data,
        "tr": [TSS_SELECTOR, TSS, 0, 0x67],
        "gdt": [at.GDT, 31], "idt": [at.IDT, 7],
    }
    if long_mode:
        state |= {"rsp": at.BOOT_STACK, "rbp": at.BOOT_STACK, "rsi": at.ZERO_PAGE,
                  "cr0": CR0_PE | CR0_ET | CR0_PG, "cr3": at.PML4, "cr4": CR4_PAE,
                  "efer": EFER_LME | EFER_LMA}
    else:
        state |= {"rbx": at.PVH_START_INFO, "cr0": CR0_PE | CR0_ET}
    return state
