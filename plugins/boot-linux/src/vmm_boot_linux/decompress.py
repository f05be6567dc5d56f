# SPDX-License-Identifier: Apache-2.0
"""Decompresses the payload of a bzImage or of an EFI zboot image: gzip, xz, lzma, bzip2, lz4, zstd (not lzo).

The kernel's build appends the decompressed size (32 bit, little endian) to every format but
gzip, whose own trailer has it (scripts/Makefile.lib, ``size_append``); that is the bound, so a
payload that would expand further is an error, and no step makes more than `STEP` bytes at once.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

STEP = 8 << 20
#: No kernel is larger than this when decompressed, in bytes.
MAX_OUTPUT = 512 << 20
#: The largest dictionary that a payload may ask for (the kernel's build uses 128 MiB at most), in bytes.
MAX_WINDOW = 128 << 20
_LZ4_BLOCK = 8 << 20  # lz4's legacy frame: every block but the last decompresses to this
_LZ4_MAGIC = 0x184C2102

_MAGIC = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x89LZO\0\r\n\x1a\n", "lzo"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


class Unsupported(Exception):
    """No decompressor for this payload here: nothing is known to be wrong with it."""


class Damaged(Exception):
    """The payload cannot be decompressed: its bytes are wrong."""


def method(payload: bytes) -> str:
    """Name of the compression, "" when unknown."""
    return next((name for magic, name in _MAGIC if payload.startswith(magic)), "")


def gzip_head(data: bytes, size: int) -> bytes:
    """The first `size` bytes (or fewer) of a gzip file's content, given its first bytes; b"" if they are damaged."""
    import zlib

    try:
        return zlib.decompressobj(wbits=31).decompress(data, size)
    except zlib.error:
        return b""


def decompress(payload: bytes, limit: int) -> Iterator[bytes]:
    """The decompressed payload in pieces of at most `STEP` bytes.

    `limit`: the most bytes that it may have. Raises Unsupported before the first piece, and Damaged
    at any time: what came before must then be thrown away.
    """
    name = method(payload)
    if not name:
        raise Unsupported(f"unknown compression (magic {payload[:4].hex()})")
    if name == "lzo":
        raise Unsupported("lzo compression")
    if len(payload) < 16:
        raise Damaged("too short")
    size = int.from_bytes(payload[-4:], "little")
    limit = min(limit, MAX_OUTPUT)
    if size > limit:
        raise Damaged(f"it claims {size} bytes decompressed, more than the {limit} it may have")
    return _bounded(_pieces(name, payload if name == "gzip" else payload[:-4]), size)


def _bounded(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    done = 0
    for piece in pieces:
        done += len(piece)
        if done > size:
            raise Damaged(f"it expands beyond the {size} bytes that its trailer claims")
        yield piece
    if done != size:
        raise Damaged(f"it ends after {done} of {size} bytes")


def _pieces(name: str, data: bytes) -> Iterator[bytes]:
    if name == "lz4":
        return _lz4(data)
    if name == "zstd":
        return _zstd(data)
    if name == "gzip":
        return _gzip(data)
    return _stdlib(name, data)


def _gzip(data: bytes) -> Iterator[bytes]:
    import zlib

    stream = zlib.decompressobj(wbits=31)
    try:
        while not stream.eof:
            piece = stream.decompress(data, STEP)
            data = stream.unconsumed_tail
            if not piece and not data:
                return  # truncated: the caller counts
            yield piece
    except zlib.error as error:
        raise Damaged(str(error)) from None


def _stdlib(name: str, data: bytes) -> Iterator[bytes]:
    stream: Any
    failures: tuple[type[Exception], ...]
    if name == "bzip2":
        import bz2

        stream, failures = bz2.BZ2Decompressor(), (OSError, EOFError, ValueError)
    else:
        import lzma

        # Twice the window: the decoder counts its own tables too.
        kind = lzma.FORMAT_XZ if name == "xz" else lzma.FORMAT_ALONE
        stream, failures = lzma.LZMADecompressor(kind, memlimit=2 * MAX_WINDOW), (lzma.LZMAError, EOFError)
    try:
        while not stream.eof:
            piece = stream.decompress(data, STEP)
            data = b""
            if not piece and stream.needs_input:
                return
            yield piece
    except failures as error:
        raise Damaged(str(error)) from None


def _zstd(data: bytes) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise Unsupported("zstd compression, and the Python package zstandard is missing") from None
    try:
        stream = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(data)
        while piece := stream.read(STEP):
            yield piece
    except zstandard.ZstdError as error:
        raise Damaged(str(error)) from None


def _lz4(data: bytes) -> Iterator[bytes]:
    # Legacy frame: magic, then blocks, each after its compressed size; frames may follow one
    # another (doc/lz4_Frame_format.md, "Legacy frame").
    try:
        import lz4.block
    except ImportError:
        raise Unsupported("lz4 compression, and the Python package lz4 is missing") from None
    view = memoryview(data)
    position = 0
    while len(view) - position >= 4:
        size = int.from_bytes(view[position : position + 4], "little")
        position += 4
        if size == _LZ4_MAGIC:
            continue
        if not size or size > len(view) - position:
            raise Damaged(f"a block of {size} bytes at {position} reaches behind its end")
        try:
            block = view[position : position + size]
            piece: bytes = lz4.block.decompress(block, uncompressed_size=_LZ4_BLOCK)
        except lz4.block.LZ4BlockError as error:
            raise Damaged(str(error)) from None
        yield piece
        position += size
