# SPDX-License-Identifier: Apache-2.0
"""A compressed kernel, decompressed through the cache; what both architectures plan with."""

from __future__ import annotations

import os

from vmmcore.errors import UserError

from . import cache
from .files import pread
from .image import HEAD, Image, ImageError, gzip_image, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from vmmcore.front.planning import PlanContext

KERNEL = "--kernel"
GZIP = b"\x1f\x8b\x08"


class NoExtract(Exception):
    """Why the host cannot decompress this one, or not into the cache."""


def reject(path: str, error: ImageError) -> NoReturn:
    """One line for a kernel that cannot be right."""
    raise UserError(KERNEL, f"{path} {error.problem}", error.mend) from None


def parse_fd(fd: int, size: int, path: str) -> Image:
    """The header of an open kernel of `size` bytes. Raises UserError."""
    try:
        head = pread(fd, 0, HEAD)
        image = parse(head, size, lambda offset, count: pread(fd, offset, count))
    except ImageError as error:
        reject(path, error)
    if image is None and head.startswith(GZIP):
        return gzip_image(size)
    if image is None:
        raise UserError(KERNEL, f"{path} changed while it was read", "try again")
    return image


def cached(context: PlanContext, path: str, fd: int, status: os.stat_result, image: Image, *,
           create: bool) -> tuple[int, Image, cache.Extents]:
    """The decompressed kernel: (file index in the plan, image, where it is not zero).

    `create`: put it into the cache if it is not there. Raises NoExtract, and UserError for a damaged one.
    """
    if not image.payload_size:
        raise NoExtract("its header names no payload")
    entry = cache.find(status)
    if entry is None:
        if not create:
            raise NoExtract("not in the cache yet, and this run may not change anything")
        entry = _store(path, fd, image)
    try:
        index = context.open_file(entry.path, KERNEL)
        opened = os.fstat(context.fd(index))
        # The plan's descriptor was opened by name: it must be the file that was verified.
        if (opened.st_dev, opened.st_ino) != (entry.status.st_dev, entry.status.st_ino):
            raise NoExtract(f"{entry.path} was replaced meanwhile")
        size = entry.status.st_size
        inner = parse(pread(entry.fd, 0, HEAD), size, lambda offset, count: pread(entry.fd, offset, count))
    except (UserError, ImageError) as error:
        raise NoExtract(str(error)) from None
    finally:
        os.close(entry.fd)
    if inner is None or inner.kind != cache.inside(image):
        raise NoExtract(f"{entry.path} is not an {cache.inside(image)} file")
    return index, inner, entry.extents


def _store(path: str, fd: int, image: Image) -> cache.Entry:
    from .decompress import Damaged, Unsupported

    try:
        return cache.store(fd, image)
    except Damaged as error:
        raise UserError(KERNEL, f"{path} is damaged: its compressed kernel does not decompress ({error})",
                        "fetch or build the kernel again") from None
    except (Unsupported, ImageError, OSError) as error:
        raise NoExtract(str(error)) from None
