# SPDX-License-Identifier: Apache-2.0
"""SMBIOS 3.2 tables (DMTF DSP0134): what `dmidecode` and the guest's DMI code read."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ENTRY_SIZE = 24
DATE = "01/01/2026"  # of the "firmware": a constant, so that equal machines look equal
NOT_SUPPORTED = 1 << 3  # BIOS characteristics: "not supported"
VIRTUAL_MACHINE = 0x10  # BIOS characteristics extension byte 2


def _structure(kind: int, handle: int, body: bytes, *strings: str) -> bytes:
    text = b"".join(s.encode() + b"\0" for s in strings) or b"\0"
    return struct.pack("<BBH", kind, 4 + len(body), handle) + body + text + b"\0"


def build(address: int, *, manufacturer: str = "vmm", product: str = "vmm", version: str = "",
          serial: str = "", uuid: bytes = bytes(16), oem_strings: Sequence[str] = ()) -> bytes:
    """Entry point at `address` (16-byte aligned) and tables right after it.

    uuid: 16 bytes as the UUID is written; all zero: not set.
    """
    uuid = uuid[3::-1] + uuid[5:3:-1] + uuid[7:5:-1] + uuid[8:]  # the first three fields are little endian
    strings = _structure(11, 4, bytes((len(oem_strings),)), *oem_strings) if oem_strings else b""  # OEM strings
    tables = b"".join((
        # BIOS information (type 0): vendor, version and date strings
        _structure(0, 0, struct.pack("<BBHBBQBBBBBBH", 1, 2, 0, 3, 0, NOT_SUPPORTED, 0, VIRTUAL_MACHINE,
                                     0xFF, 0xFF, 0xFF, 0xFF, 0), manufacturer, version or "0", DATE),
        # System information (type 1); strings 1 to 4; wake-up type 6: power switch
        _structure(1, 1, struct.pack("<BBBB16sBBB", 1, 2, 3, 4, uuid, 6, 0, 0),
                   manufacturer, product, version or "0", serial or "0"),
        strings,
        _structure(32, 2, bytes(7)),  # System boot information: no errors detected
        _structure(127, 3, b""),  # End of table
    ))
    entry = bytearray(struct.pack("<5sBBBBBBBIQ", b"_SM3_", 0, ENTRY_SIZE, 3, 2, 0, 1, 0, len(tables),
                                  address + 32))
    entry[5] = -sum(entry) & 0xFF
    return bytes(entry) + bytes(8) + tables
