# SPDX-License-Identifier: Apache-2.0
"""Tables for firmware that places them itself: fw_cfg files with a script for its linker (QEMU's
`etc/table-loader`, which EDK2 and SeaBIOS run).

The script has commands of 128 bytes: allocate memory for a file, add the address of a file to a
pointer in another, fill in a checksum.  Pointers count from the start of the file that they point into.
"""

from __future__ import annotations

from .tables import packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .machine import Blob

RSDP_FILE, TABLES_FILE, SCRIPT_FILE = "etc/acpi/rsdp", "etc/acpi/tables", "etc/table-loader"

_ALLOCATE, _ADD_POINTER, _ADD_CHECKSUM = 1, 2, 3
_ANYWHERE, _LOW_BIOS = 1, 2  # zones; the second is where x86's OS looks for the RSDP
_NAME_SIZE, _COMMAND_SIZE = 56, 128
_CHECKSUM_AT = 9  # in a table's header
_FADT_DSDT, _FADT_X_DSDT, _XSDT_ENTRIES, _RSDP_XSDT = 40, 140, 36, 24
_RSDP_CHECKSUMS = ((8, 20), (32, 36))  # place, and how many bytes it is over


def loader_files(blob: Blob) -> dict[str, bytes]:
    """The three fw_cfg files, by name, that make firmware install the tables of `blob`.

    Where `blob` was built for is of no account: all pointers are made anew.
    """
    _, rsdp_address, rsdp_size = blob.tables[0]
    start = blob.tables[1][1]
    rsdp = bytearray(blob.data[:rsdp_size])
    data = bytearray(blob.data[start - rsdp_address :])
    script = [_allocate(RSDP_FILE, 16, _LOW_BIOS), _allocate(TABLES_FILE, 64, _ANYWHERE)]

    def relocate(file: str, content: bytearray, place: int) -> None:
        target = int.from_bytes(content[place : place + 8], "little") - start
        content[place : place + 8] = packed("table loader", "Q", target)
        script.append(_add_pointer(file, place))

    def add_checksum(file: str, content: bytearray, place: int, first: int, size: int) -> None:
        content[place] = 0
        script.append(_command(_ADD_CHECKSUM, file, packed("table loader", "III", place, first, size)))

    for signature, address, size in blob.tables[1:]:
        at = address - start
        if signature == "FACP":
            # 32 bits would keep the tables below 4 GiB; the 64-bit field is enough (ACPI 6.5 table 5.9).
            data[at + _FADT_DSDT : at + _FADT_DSDT + 4] = bytes(4)
            relocate(TABLES_FILE, data, at + _FADT_X_DSDT)
        elif signature == "XSDT":
            for place in range(at + _XSDT_ENTRIES, at + size, 8):
                relocate(TABLES_FILE, data, place)
        else:
            continue
        add_checksum(TABLES_FILE, data, at + _CHECKSUM_AT, at, size)
    relocate(RSDP_FILE, rsdp, _RSDP_XSDT)
    for place, size in _RSDP_CHECKSUMS:
        add_checksum(RSDP_FILE, rsdp, place, 0, size)
    return {RSDP_FILE: bytes(rsdp), TABLES_FILE: bytes(data), SCRIPT_FILE: b"".join(script)}


def _allocate(file: str, align: int, zone: int) -> bytes:
    return _command(_ALLOCATE, file, packed("table loader", "IB", align, zone))


def _add_pointer(file: str, place: int) -> bytes:
    """8 bytes at `place` of `file` point into the tables."""
    return _command(_ADD_POINTER, file, _name(TABLES_FILE) + packed("table loader", "IB", place, 8))


def _command(kind: int, file: str, rest: bytes) -> bytes:
    return (packed("table loader", "I", kind) + _name(file) + rest).ljust(_COMMAND_SIZE, b"\0")


def _name(file: str) -> bytes:
    return file.encode("ascii").ljust(_NAME_SIZE, b"\0")
