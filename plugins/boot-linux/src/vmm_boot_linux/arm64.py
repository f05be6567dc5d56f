# SPDX-License-Identifier: Apache-2.0
"""An arm64 Image, bare or compressed (gzip, EFI zboot): Documentation/arch/arm64/booting.rst."""

from __future__ import annotations

import os

from vmmcore.errors import UserError

from . import cache
from .extract import KERNEL, NoExtract, cached, parse_fd, reject
from .image import Image, ImageError
from .options import KEY, BootOptions
from .place import place_image, place_initramfs_near

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.front.planning import PlanContext

#: what may lie behind an Image that does not say how much RAM it needs (Linux before 3.17), in bytes
UNKNOWN_BSS = 16 << 20


def plan(context: PlanContext, path: str, kernel: int, image: Image, options: BootOptions) -> dict[str, Any]:
    """Add the kernel and the initramfs to the plan; returns the entry. Raises UserError.

    `kernel` is the index of the open file of which `image` is the header.
    """
    plugin = f"--plugin {KEY}"
    if options.protocol != "auto":
        raise UserError(f"{plugin} protocol=", f"{options.protocol} is for x86-64 kernels", "leave it out")
    status = os.fstat(context.fd(kernel))
    size, extents = status.st_size, None
    if image.kind != "Image":
        if options.extract == "off":
            raise UserError(f"{plugin} extract=", f"{path} is compressed, and nothing in the guest could decompress it",
                            "leave extract=off out")
        kernel, image, extents = _decompressed(context, path, kernel, status, image)
        size = os.fstat(context.fd(kernel)).st_size
    # What lies behind image_size is no part of the kernel (a signature).
    in_file = min(size, image.image_size) if image.image_size else size
    needed = image.image_size or in_file + UNKNOWN_BSS
    load = place_image(context, path, image.text_offset, needed)
    for start, length in extents if extents is not None else [(0, in_file)]:
        length = min(length, in_file - start)
        if length > 0:
            context.load_file(load + start, kernel, start, length)
    entry: dict[str, Any] = {"protocol": "arm64", "pc": load}
    initramfs = place_initramfs_near(context, load, load + needed)
    if initramfs is not None:
        entry["initramfs"] = initramfs
    return entry


def _decompressed(context: PlanContext, path: str, kernel: int, status: os.stat_result,
                  image: Image) -> tuple[int, Image, cache.Extents]:
    """The Image inside: (file index in the plan, its header, where it is not zero)."""
    fd = context.fd(kernel)
    try:
        return cached(context, path, fd, status, image, create=not context.dry_run)
    except NoExtract:
        pass  # no cache here: then it is in memory only, and the next start decompresses it again
    from .decompress import Damaged, Unsupported

    memory = os.memfd_create("vmm-kernel", os.MFD_CLOEXEC)
    try:
        try:
            extents = cache.into(memory, fd, image)
            inner = parse_fd(memory, os.fstat(memory).st_size, path)
        except Damaged as error:
            raise UserError(KERNEL, f"{path} is damaged: its compressed kernel does not decompress ({error})",
                            "fetch or build the kernel again") from None
        except (Unsupported, OSError) as error:
            raise UserError(KERNEL, f"{path} cannot be decompressed: {error}", "give an uncompressed Image") from None
        if inner.kind != "Image":
            reject(path, ImageError("does not decompress to an arm64 Image", "give a kernel for arm64"))
    except BaseException:
        os.close(memory)
        raise
    return context.adopt_fd(memory, {"decompressed": path}), inner, extents
