# SPDX-License-Identifier: Apache-2.0
"""Python's view of the C parser: give it a head and a way to read more, get an `Image`."""

from __future__ import annotations

from ._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HEAD = 65536
#: First byte of the setup header, in a bzImage and in the zero page.
SETUP_HEADER = 0x1F1


class ImageError(Exception):
    """A kernel that cannot be right. `problem` reads well behind the file's name."""

    def __init__(self, problem: str, mend: str = "") -> None:
        super().__init__(f"{problem}; {mend}" if mend else problem)
        self.problem, self.mend = problem, mend


class Image:
    """What the headers say (addresses and sizes in bytes; see native/image.h for the fields).

    kind           ``"bzImage"``, ``"ELF"``, ``"Image"``, ``"zboot"`` or ``"gzip"``
    setup_header   bzImage: the bytes from 0x1f1 on for the zero page, else b""
    segments       ELF: [(file offset, guest physical address, bytes in the file, bytes in memory)]
    """

    __slots__ = ("alignment", "cmdline_size", "code_offset", "code_size", "entry", "high", "image_size", "init_size",
                 "initrd_max", "kind", "low", "machine", "payload_offset", "payload_size", "pref_address", "pvh_entry",
                 "relocatable", "segments", "setup_header", "text_offset")

    def __init__(self, raw: Any, kind: str, head: bytes) -> None:
        self.kind = kind
        self.alignment: int = raw.alignment
        self.cmdline_size: int = raw.cmdline_size
        self.code_offset: int = raw.code_offset
        self.code_size: int = raw.code_size
        self.entry: int = raw.entry
        self.pvh_entry: int = raw.pvh_entry
        self.low: int = raw.low
        self.high: int = raw.high
        self.init_size: int = raw.init_size
        self.initrd_max: int = raw.initrd_max
        self.payload_offset: int = raw.payload_offset
        self.payload_size: int = raw.payload_size
        self.pref_address: int = raw.pref_address
        self.text_offset: int = raw.text_offset
        self.image_size: int = raw.image_size
        self.machine: int = raw.machine
        self.relocatable = bool(raw.relocatable)
        self.setup_header = head[SETUP_HEADER : raw.header_end] if kind == "bzImage" else b""
        self.segments: list[tuple[int, int, int, int]] = [
            (s.offset, s.paddr, s.filesz, s.memsz) for s in raw.segments[0 : raw.segment_count]
        ]


_KINDS = {lib.IMAGE_BZIMAGE: "bzImage", lib.IMAGE_ELF: "ELF", lib.IMAGE_ARM64: "Image", lib.IMAGE_ZBOOT: "zboot"}


def gzip_image(size: int) -> Image:
    """A gzip file of `size` bytes: all of it is payload."""
    raw = ffi.new("struct image *")
    raw.payload_size = size
    return Image(raw, "gzip", b"")


def parse(head: bytes, size: int, read: Callable[[int, int], bytes] | None = None) -> Image | None:
    """Parse the file of `size` bytes that begins with `head`.

    `read(offset, count)` gives pieces behind the head (it may give fewer bytes at the end of a file that
    shrank). Without it, None is also the answer when such a piece is needed: all that was seen is right.
    None: no kernel of a kind that we know (a gzip file is none here, see :func:`gzip_image`). Raises ImageError
    for one that is broken.
    """
    raw = ffi.new("struct image *")
    error = ffi.new("char[]", lib.IMAGE_ERROR_SIZE)
    pieces = [(0, head)]
    while True:
        buffers = [ffi.from_buffer("uint8_t[]", data) for _, data in pieces]
        chunks = ffi.new("struct image_chunk[]", [
            (offset, buffer, len(data)) for (offset, data), buffer in zip(pieces, buffers, strict=True)])
        kind = lib.image_parse(chunks, len(pieces), size, raw, error, lib.IMAGE_ERROR_SIZE)
        if kind == lib.IMAGE_BROKEN:
            problem, _, mend = ffi.string(error).decode("ascii", "replace").partition("; ")
            raise ImageError(problem, mend)
        if kind in _KINDS:
            return Image(raw, _KINDS[kind], head)
        if kind == lib.IMAGE_FOREIGN or read is None:
            return None
        data = read(raw.need_offset, raw.need_size)
        if len(data) < raw.need_size or len(pieces) >= lib.IMAGE_MAX_CHUNKS:
            raise ImageError("changed while it was read", "try again")
        pieces.append((raw.need_offset, data))
