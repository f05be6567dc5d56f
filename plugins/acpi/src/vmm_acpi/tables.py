# SPDX-License-Identifier: Apache-2.0
"""Fixed ACPI tables: header, RSDP, XSDT, FADT, MCFG (ACPI 6.5 §5.2, PCI Firmware 3.3 §4.1.2).

Every function returns the finished, checksummed bytes and raises ValueError for a value that does
not fit its field.  Addresses are guest-physical, sizes in bytes.
"""

from __future__ import annotations

from struct import error, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# FADT flags (ACPI 6.5 table 5.10)
WBINVD = 1 << 0
PWR_BUTTON = 1 << 4  # the power button is no fixed hardware: a control method device, or absent
SLP_BUTTON = 1 << 5
TMR_VAL_EXT = 1 << 8
RESET_REG_SUP = 1 << 10
HW_REDUCED_ACPI = 1 << 20
LOW_POWER_S0_IDLE = 1 << 21

# IA-PC boot architecture flags (ACPI 6.5 §5.2.9.3)
BOOT_LEGACY_DEVICES = 1 << 0
BOOT_8042 = 1 << 1
BOOT_VGA_NOT_PRESENT = 1 << 2
BOOT_MSI_NOT_SUPPORTED = 1 << 3
BOOT_NO_ASPM = 1 << 4
BOOT_CMOS_RTC_NOT_PRESENT = 1 << 5

# Arm boot architecture flags (ACPI 6.5 §5.2.9.4)
ARM_PSCI_COMPLIANT = 1 << 0
ARM_PSCI_USE_HVC = 1 << 1

SYSTEM_MEMORY, SYSTEM_IO = 0, 1
HEADER_SIZE = 36
NO_REGISTER = bytes(12)


class Ids:
    """The identification fields of every table header (ACPI 6.5 table 5.4)."""

    __slots__ = ("oem_id", "oem_table_id", "oem_revision", "creator_id", "creator_revision")

    def __init__(
        self,
        oem_id: bytes = b"VMM   ",
        oem_table_id: bytes = b"VMMTABLE",
        oem_revision: int = 1,
        creator_id: bytes = b"VMM ",
        creator_revision: int = 1,
    ) -> None:
        if (len(oem_id), len(oem_table_id), len(creator_id)) != (6, 8, 4):
            raise ValueError("ACPI ids: oem_id takes 6 bytes, oem_table_id 8, creator_id 4")
        self.oem_id = oem_id
        self.oem_table_id = oem_table_id
        self.oem_revision = oem_revision
        self.creator_id = creator_id
        self.creator_revision = creator_revision


def packed(what: str, layout: str, *values: int | bytes) -> bytes:
    """`struct.pack` in little-endian order; a value that does not fit is a ValueError naming `what`."""
    try:
        return pack("<" + layout, *values)
    except error as exc:
        raise ValueError(f"ACPI {what}: a value does not fit its field ({exc})") from None


def checksum(data: bytes) -> int:
    """The byte that makes the sum of `data` and itself zero modulo 256 (ACPI 6.5 §5.2.5.3, §5.2.6)."""
    return -sum(data) & 0xFF


def sdt(signature: bytes, revision: int, body: bytes, ids: Ids) -> bytes:
    """A system description table: header, body, checksum (ACPI 6.5 §5.2.6)."""
    if len(signature) != 4:
        raise ValueError(f"ACPI table signature {signature!r}: four bytes")
    head = packed("header", "4sIB", signature, HEADER_SIZE + len(body), revision)
    oem = packed("header", "6s8sI", ids.oem_id, ids.oem_table_id, ids.oem_revision)
    tail = oem + packed("header", "4sI", ids.creator_id, ids.creator_revision)
    return head + bytes((checksum(head + tail + body),)) + tail + body


def gas(space: int, address: int, bits: int, access: int) -> bytes:
    """Generic Address Structure; `access` 1 to 4 is byte to qword (ACPI 6.5 §5.2.3.2)."""
    return packed("generic address", "BBBBQ", space, bits, 0, access, address)


def rsdp(xsdt_address: int, ids: Ids) -> bytes:
    """Root System Description Pointer, revision 2, without an RSDT (ACPI 6.5 §5.2.5.3)."""
    first = b"RSD PTR " + b"\0" + ids.oem_id + b"\x02" + bytes(4)
    first = first[:8] + bytes((checksum(first),)) + first[9:]
    rest = packed("RSDP", "IQ", HEADER_SIZE, xsdt_address)
    return first + rest + bytes((checksum(first + rest), 0, 0, 0))


def xsdt(addresses: Iterable[int], ids: Ids) -> bytes:
    """Extended System Description Table: the addresses of the other tables (ACPI 6.5 §5.2.8)."""
    return sdt(b"XSDT", 1, b"".join([packed("XSDT", "Q", address) for address in addresses]), ids)


def fadt(
    dsdt_address: int,
    ids: Ids,
    *,
    flags: int = HW_REDUCED_ACPI | PWR_BUTTON | SLP_BUTTON,
    boot_arch: int = 0,
    arm_boot_arch: int = 0,
    sleep_control: bytes = NO_REGISTER,
    sleep_status: bytes = NO_REGISTER,
    reset_register: bytes = NO_REGISTER,
    reset_value: int = 0,
    pm_timer_port: int | None = None,
    pm_profile: int = 0,
    facs_address: int = 0,
    hypervisor_id: bytes = b"VMM     ",
) -> bytes:
    """Fixed ACPI Description Table, 276 bytes, revision 6.5 (ACPI 6.5 §5.2.9).

    Registers are given as `gas()`; RESET_REG_SUP and TMR_VAL_EXT are set when a reset register or
    a PM timer is given.  `pm_profile` 0 is "unspecified", 4 an enterprise server.
    """
    if len(hypervisor_id) != 8:
        raise ValueError("ACPI FADT: hypervisor_id takes 8 bytes")
    if reset_register != NO_REGISTER:
        flags |= RESET_REG_SUP
    timer = NO_REGISTER
    if pm_timer_port is not None:
        flags |= TMR_VAL_EXT
        timer = gas(SYSTEM_IO, pm_timer_port, 32, 3)
    low = dsdt_address if dsdt_address < 1 << 32 else 0
    body = packed("FADT", "IIBBHIBBBB", 0, low, 0, pm_profile, 0, 0, 0, 0, 0, 0)  # 36..55: no SMI, no SCI
    body += packed("FADT", "IIIIIIII", 0, 0, 0, 0, 0, pm_timer_port or 0, 0, 0)  # 56..87: register blocks
    body += bytes((0, 0, 0, 4 if pm_timer_port is not None else 0, 0, 0, 0, 0))  # 88..95: their lengths
    # C2 and C3 latencies above 100 and 1000 µs say that those states do not exist (offsets 96 and 98).
    body += packed("FADT", "HHHHBBBBB", 0x65, 0x3E9, 0, 0, 0, 0, 0, 0, 0)
    body += packed("FADT", "HBI", boot_arch, 0, flags)  # 109..115
    body += reset_register + packed("FADT", "BHB", reset_value, arm_boot_arch, 5)
    body += packed("FADT", "QQ", facs_address, dsdt_address)
    body += NO_REGISTER * 5 + timer + NO_REGISTER * 2  # 148..243: PM1a event … GPE1
    return sdt(b"FACP", 6, body + sleep_control + sleep_status + hypervisor_id, ids)


def mcfg(entries: Iterable[tuple[int, int, int, int]], ids: Ids) -> bytes:
    """Memory-mapped configuration space: `(ecam of bus 0, segment, first bus, last bus)` each.

    PCI Firmware 3.3 table 4-2 and 4-3.
    """
    body = bytes(8)
    for base, segment, first, last in entries:
        body += packed("MCFG", "QHBBI", base, segment, first, last, 0)
    return sdt(b"MCFG", 1, body, ids)
