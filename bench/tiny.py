# SPDX-License-Identifier: Apache-2.0
"""A guest of a few instructions: one byte to the serial port, its very first exit, then off, or halted."""

from __future__ import annotations

import struct
from pathlib import Path

ENTRY = 0x100000
MARK = b"!"
PVH_NOTE = 18  # XEN_ELFNOTE_PHYS32_ENTRY (Xen public/elfnote.h)

_SAY = b"\x66\xba\xf8\x03\xb0" + MARK + b"\xee"  # mov $0x3f8,%dx; mov $MARK,%al; out %al,%dx
_OFF = b"\x66\xba\x00\x06\xb0\x34\xee"  # mov $0x600,%dx; mov $(5 << 2 | 1 << 5),%al; out %al,%dx: S5
_HALT = b"\xfa\xf4\xeb\xfc"  # cli; 1: hlt; jmp 1b


def write(path: Path, *, off: bool) -> Path:
    """Make the ELF file, entered in 32-bit mode by PVH. `off`: power off after the byte, else halt."""
    code = _SAY + (_OFF if off else b"") + _HALT
    note = struct.pack("<III4sI", 4, 4, PVH_NOTE, b"Xen\0", ENTRY)
    at, note_at = 0x1000, 0x200
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01" + bytes(9), 2, 62, 1, ENTRY, 64, 0, 0, 64, 56, 2, 64, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, at, ENTRY, ENTRY, len(code), len(code), 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, note_at, 0, 0, len(note), len(note), 4)
    image = bytearray(at + len(code))
    image[: len(header + load + notes)] = header + load + notes
    image[note_at : note_at + len(note)] = note
    image[at:] = code
    path.write_bytes(image)
    return path
