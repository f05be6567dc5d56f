# SPDX-License-Identifier: Apache-2.0
"""Where in guest RAM the kernel and the initramfs go."""

from __future__ import annotations

import os
import stat

from vmmcore.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vmmcore.front.planning import PlanContext

PAGE = 4096
MIB = 1 << 20
GIB = 1 << 30
#: of an arm64 Image, and how far from it the initramfs may end (Documentation/arch/arm64/booting.rst), in bytes
IMAGE_ALIGN, INITRAMFS_WINDOW = 2 << 20, 32 << 30


def _mib(size: int) -> str:
    return f"{-(-size // MIB)}M"


def _fits(context: PlanContext, start: int, size: int) -> bool:
    if start < context.layout.load_min:
        return False
    return any(base <= start and start + size <= base + length for base, length in context.layout.ram)


def place_kernel(context: PlanContext, path: str, address: int, size: int, alignment: int) -> int:
    """The load address of a kernel that needs `size` bytes of RAM at `address`.

    `alignment`: of a kernel that can also start at a higher address; 0 for one that cannot.
    Raises UserError when the RAM is not there.
    """
    layout = context.layout
    if _fits(context, address, size):
        return address
    if address < layout.load_min:
        raise UserError("--kernel", f"{path} wants to be loaded at {address:#x}, below {layout.load_min:#x}",
                        "that memory is taken: link it for 1 MiB or higher")
    if alignment:
        # Lower than its preferred address would not help: it decompresses to there all the same.
        for base, length in layout.ram:
            start = -(-max(base, address) // alignment) * alignment
            if start + size <= min(base + length, 1 << 32):
                return start
    raise UserError("--memory size=",
                    f"too small for {path}, which needs the {_mib(size)} from {address:#x} on",
                    f"use --memory size={_mib(address + size + 16 * MIB)} or more")


def place_image(context: PlanContext, path: str, text_offset: int, size: int) -> int:
    """The load address of an arm64 Image: the lowest from Layout.load_min on. Raises UserError."""
    start = (-(-context.layout.load_min // IMAGE_ALIGN) * IMAGE_ALIGN) + text_offset
    if _fits(context, start, size):
        return start
    ram = context.layout.ram[0][0]
    raise UserError("--memory size=", f"too small for {path}, which needs the {_mib(size)} from {start:#x} on",
                    f"use --memory size={_mib(start - ram + size + 16 * MIB)} or more")


def place_initramfs_near(context: PlanContext, low: int, high: int) -> list[int] | None:
    """Load the initramfs, if one is configured, for an arm64 Image at [low, high): [address, size].

    Both must be in one window of 32 GiB that begins at a multiple of 1 GiB. Behind the kernel, as high as that and the
    piece of RAM allow, in the lowest piece that has the room. Raises UserError when it does not fit.
    """
    initramfs = _open_initramfs(context)
    if initramfs is None:
        return None
    path, index, size = initramfs
    window = (low & -GIB) + INITRAMFS_WINDOW
    for base, length in context.layout.ram:
        top = min(base + length, window)
        address = (top - size) & -PAGE
        if address >= max(base, -(-high // PAGE) * PAGE):
            context.load_file(address, index, 0, size)
            return [address, size]
    ram = context.layout.ram[0][0]
    if high + size > window:
        limit = f"{INITRAMFS_WINDOW // GIB}G"
        raise UserError("--initramfs", f"{path} ({_mib(size)}) does not fit within {limit} of the kernel",
                        "make it smaller")
    raise UserError("--initramfs", f"{path} ({_mib(size)}) does not fit in memory beside the kernel",
                    f"give the VM more memory (--memory size={_mib(high - ram + size + 16 * MIB)} or more)")


def _open_initramfs(context: PlanContext) -> tuple[str, int, int] | None:
    """(path, file index, bytes) of the configured initramfs. Raises UserError."""
    path = context.config.initramfs
    if path is None:
        return None
    index = context.open_file(path, "--initramfs")
    status = os.fstat(context.fd(index))
    if not stat.S_ISREG(status.st_mode):
        raise UserError("--initramfs", f"{path} is not a regular file", "copy it to one")
    if not status.st_size:
        raise UserError("--initramfs", f"{path} is empty", "give an initramfs, or leave the option out")
    return path, index, status.st_size


def place_initramfs(context: PlanContext, low: int, high: int, highest: int) -> list[int] | None:
    """Load the initramfs, if one is configured, as high as the kernel can reach: [address, size].

    [low, high) is the kernel's. `highest`: the last address that a byte of it may have.
    Raises UserError when it does not fit.
    """
    initramfs = _open_initramfs(context)
    if initramfs is None:
        return None
    path, index, size = initramfs
    top = min(context.layout.low_ram_end, highest + 1)
    address = (top - size) & -PAGE
    if address < high:  # not above the kernel: perhaps below it
        address = (min(low, top) - size) & -PAGE
    if not _fits(context, address, size):
        need = high + size + 2 * PAGE
        what = f"{path} ({_mib(size)}) does not fit"
        if need > highest:
            raise UserError("--initramfs", f"{what} below {highest:#x} beside the kernel", "make it smaller")
        raise UserError("--initramfs", f"{what} in memory beside the kernel",
                        f"give the VM more memory (--memory size={_mib(need + 16 * MIB)} or more)")
    context.load_file(address, index, 0, size)
    return [address, size]
