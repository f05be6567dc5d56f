# SPDX-License-Identifier: Apache-2.0
"""From a kernel file to the plan's load list and entry."""

from __future__ import annotations

import os
import stat

from vmmcore.errors import UserError
from vmmcore.hooks import BootClaim

from . import cache
from .extract import GZIP, KERNEL, NoExtract, cached, parse_fd, reject
from .files import pread
from .image import HEAD, Image, ImageError, parse
from .options import KEY, BootOptions
from .place import place_initramfs, place_kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.front.planning import PlanContext

PLUGIN = f"--plugin {KEY}"
ELF = "an ELF file"
#: e_machine of ELF (System V gABI) and Machine of PE (Microsoft PE and COFF Specification §3.3.1)
ELF_MACHINES = {62: "x86_64", 183: "aarch64", 243: "riscv64"}
PE_MACHINES = {0x8664: "x86_64", 0xAA64: "aarch64", 0x5064: "riscv64", 0x6264: "loongarch64"}
#: architecture -> a kernel for it
WANTED = {"x86_64": "an x86-64 bzImage or vmlinux", "aarch64": "an arm64 Image (bare, gzip-compressed or EFI zboot)"}


def machine() -> str:
    """The architecture of this host."""
    return os.uname().machine


def probe(path: str, head: bytes, size: int) -> BootClaim | None:
    """See plugin.vmm_boot_probe: the claim for a file whose magic number is ours."""
    kind, arch = _about(head)
    if not kind:
        return None
    # What is wrong with a kernel that this machine cannot run anyway does not matter.
    if arch == machine() and not (arch == "aarch64" and kind == ELF):
        try:
            parse(head, size)
        except ImageError as error:
            reject(path, error)
    return BootClaim(100, f"Linux {kind.partition(' ')[2]}", lambda context: plan(context, path))


def _about(head: bytes) -> tuple[str, str]:
    """What a kernel is, in words, and its architecture; ("", "") for a gzip file without a kernel."""
    if head[:4] == b"\x7fELF":
        number = int.from_bytes(head[18:20], "big" if head[5:6] == b"\2" else "little")
        return ELF, ELF_MACHINES.get(number, "x86_64")  # whose parser refuses all others
    if head[4:8] == b"zimg":
        pe = int.from_bytes(head[60:64], "little")
        return "an EFI zboot image", PE_MACHINES.get(int.from_bytes(head[pe + 4 : pe + 6], "little"), "aarch64")
    if head.startswith(GZIP):
        from .decompress import gzip_head

        return ("a gzip-compressed Image", "aarch64") if gzip_head(head, 64)[56:60] == b"ARM\x64" else ("", "")
    return ("an arm64 Image", "aarch64") if head[56:60] == b"ARM\x64" else ("a bzImage", "x86_64")


def plan(context: PlanContext, path: str) -> dict[str, Any]:
    """Add the kernel and the initramfs to the plan; returns the entry. Raises UserError."""
    options: BootOptions = context.layout.extra.get(KEY) or BootOptions()
    kernel = context.open_file(path, KERNEL)
    fd = context.fd(kernel)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(KERNEL, f"{path} is not a regular file", "copy it to one")
    # Read through the descriptor that the runner gets: the file at `path` may be another by now.
    here = context.arch.name
    kind, arch = _about(pread(fd, 0, HEAD))
    if arch and arch != here:
        raise UserError(KERNEL, f"{path} is {kind} for {arch}, and this machine is {here}", f"give {WANTED[here]}")
    if arch == "aarch64" and kind == ELF:
        raise UserError(KERNEL, f"{path} is {kind}, which no boot protocol of arm64 knows", f"give {WANTED[here]}")
    image = parse_fd(fd, status.st_size, path)
    if arch == "aarch64":
        from . import arm64

        return arm64.plan(context, path, kernel, image, options)

    if image.kind == "bzImage":
        if options.extract != "off":
            found = _vmlinux(context, path, fd, status, image, options)
            if found is not None:
                index, inner, extents = found
                return _plan_elf(context, path, index, inner, options, image, extents)
        elif options.protocol == "pvh":
            raise UserError(f"{PLUGIN} protocol=", "pvh needs an ELF kernel", "drop extract=off")
        return _plan_bzimage(context, path, kernel, image)
    return _plan_elf(context, path, kernel, image, options)


def _vmlinux(context: PlanContext, path: str, fd: int, status: os.stat_result, image: Image,
             options: BootOptions) -> tuple[int, Image, cache.Extents] | None:
    """The decompressed kernel: (file index in the plan, image, where it is not zero).

    None: the guest has to decompress it.
    """
    wanted = options.extract == "on" or options.protocol == "pvh"
    try:
        return cached(context, path, fd, status, image, create=wanted or not context.dry_run)
    except NoExtract as error:
        if wanted:
            raise UserError(KERNEL, f"{path} cannot be decompressed on the host: {error}",
                            f"let the guest do it: {PLUGIN},extract=off") from None
        return None


def _plan_bzimage(context: PlanContext, path: str, kernel: int, image: Image) -> dict[str, Any]:
    load = place_kernel(context, path, image.pref_address, image.init_size,
                        image.alignment if image.relocatable else 0)
    context.load_file(load, kernel, image.code_offset, image.code_size)
    return {
        "protocol": "linux64",
        "rip": load + 0x200,  # boot.rst, "64-bit Boot Protocol"
        "setup_header": image.setup_header,
        "initramfs": place_initramfs(context, load, load + image.init_size, image.initrd_max),
    }


def _plan_elf(context: PlanContext, path: str, kernel: int, image: Image, options: BootOptions,
              outer: Image | None = None, extents: cache.Extents | None = None) -> dict[str, Any]:
    """`outer`: the bzImage that `image` comes from; `extents`: where its file is not zero, if known."""
    protocol = options.protocol
    if protocol == "auto":
        # A bzImage is Linux, whose e_entry is startup_64. A bare ELF file says nothing about the state
        # that its e_entry expects, but a PVH note does.
        protocol = "pvh" if outer is None and image.pvh_entry else "linux64"
    if protocol == "pvh" and not image.pvh_entry:
        raise UserError(f"{PLUGIN} protocol=", f"{path} has no PVH entry (a kernel without CONFIG_PVH)",
                        "use protocol=linux64")
    high = max(image.high, outer.pref_address + outer.init_size) if outer else image.high
    place_kernel(context, path, image.low, high - image.low, 0)
    for offset, address, in_file, _ in image.segments:
        # Guest RAM starts zeroed, so neither what a segment has in memory only (.bss) nor zeros in the
        # file need loading.
        for start, length in extents if extents is not None else [(offset, in_file)]:
            first, last = max(start, offset), min(start + length, offset + in_file)
            if first < last:
                context.load_file(address + first - offset, kernel, first, last - first)
    entry: dict[str, Any] = {
        "protocol": protocol,
        "rip": image.pvh_entry if protocol == "pvh" else image.entry,
        "initramfs": place_initramfs(context, image.low, high, outer.initrd_max if outer else 0xFFFFFFFF),
    }
    if protocol == "linux64":
        entry["setup_header"] = outer.setup_header if outer else None
    return entry
