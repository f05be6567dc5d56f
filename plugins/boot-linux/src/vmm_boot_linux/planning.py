# SPDX-License-Identifier: Apache-2.0
"""From a kernel file to the plan's load list and entry."""

from __future__ import annotations

import os
import stat

from vmmcore.errors import UserError
from vmmcore.hooks import BootClaim

from . import cache
from .files import pread
from .image import HEAD, Image, ImageError, parse
from .options import KEY, BootOptions
from .place import place_initramfs, place_kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from vmmcore.front.planning import PlanContext

KERNEL = "--kernel"
PLUGIN = f"--plugin {KEY}"


def probe(path: str, head: bytes, size: int) -> BootClaim | None:
    """See plugin.vmm_boot_probe: the claim for a file whose magic number is ours."""
    try:
        image = parse(head, size)
    except ImageError as error:
        _reject(path, error)
    name = "Linux bzImage" if image and image.kind == "bzImage" else "ELF kernel"
    return BootClaim(100, name, lambda context: plan(context, path))


def plan(context: PlanContext, path: str) -> dict[str, Any]:
    """Add the kernel and the initramfs to the plan; returns the entry. Raises UserError."""
    options: BootOptions = context.layout.extra.get(KEY) or BootOptions()
    kernel = context.open_file(path, KERNEL)
    fd = context.fd(kernel)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(KERNEL, f"{path} is not a regular file", "copy it to one")
    # Read through the descriptor that the runner gets: the file at `path` may be another by now.
    image = _parse_fd(fd, status.st_size, path)

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


def _reject(path: str, error: ImageError) -> NoReturn:
    raise UserError(KERNEL, f"{path} {error.problem}", error.mend) from None


def _parse_fd(fd: int, size: int, path: str) -> Image:
    try:
        image = parse(pread(fd, 0, HEAD), size, lambda offset, count: pread(fd, offset, count))
    except ImageError as error:
        _reject(path, error)
    if image is None:
        raise UserError(KERNEL, f"{path} changed while it was read", "try again")
    return image


def _vmlinux(context: PlanContext, path: str, fd: int, status: os.stat_result, image: Image,
             options: BootOptions) -> tuple[int, Image, cache.Extents] | None:
    """The decompressed kernel: (file index in the plan, image, where it is not zero).

    None: the guest has to decompress it.
    """
    wanted = options.extract == "on" or options.protocol == "pvh"
    try:
        return _cached(context, path, fd, status, image, wanted or not context.dry_run)
    except _NoExtract as error:
        if wanted:
            raise UserError(KERNEL, f"{path} cannot be decompressed on the host: {error}",
                            f"let the guest do it: {PLUGIN},extract=off") from None
        return None


class _NoExtract(Exception):
    """Why the host cannot decompress this one; it may boot all the same."""


def _cached(context: PlanContext, path: str, fd: int, status: os.stat_result, image: Image,
            create: bool) -> tuple[int, Image, cache.Extents]:
    if not image.payload_size:
        raise _NoExtract("its header names no payload")
    entry = cache.find(status)
    if entry is None:
        if not create:
            raise _NoExtract("not in the cache yet, and this run may not change anything")
        entry = _store(path, fd, image)
    try:
        index = context.open_file(entry.path, KERNEL)
        opened = os.fstat(context.fd(index))
        # The plan's descriptor was opened by name: it must be the file that was verified.
        if (opened.st_dev, opened.st_ino) != (entry.status.st_dev, entry.status.st_ino):
            raise _NoExtract(f"{entry.path} was replaced meanwhile")
        size = entry.status.st_size
        inner = parse(pread(entry.fd, 0, HEAD), size, lambda offset, count: pread(entry.fd, offset, count))
    except (UserError, ImageError) as error:
        raise _NoExtract(str(error)) from None
    finally:
        os.close(entry.fd)
    if inner is None or inner.kind != "ELF":
        raise _NoExtract(f"{entry.path} is not an ELF file")
    return index, inner, entry.extents


def _store(path: str, fd: int, image: Image) -> cache.Entry:
    from .decompress import Damaged, Unsupported

    try:
        return cache.store(fd, image)
    except Damaged as error:
        raise UserError(KERNEL, f"{path} is damaged: its compressed kernel does not decompress ({error})",
                        "fetch or build the kernel again") from None
    except (Unsupported, ImageError, OSError) as error:
        raise _NoExtract(str(error)) from None


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
