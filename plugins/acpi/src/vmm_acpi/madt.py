# SPDX-License-Identifier: Apache-2.0
"""Multiple APIC Description Table and its structures, x86 and Arm (ACPI 6.5 §5.2.12)."""

from __future__ import annotations

from .tables import packed, sdt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .tables import Ids

PCAT_COMPAT = 1  # MADT flag: the machine also has a dual 8259 (ACPI 6.5 table 5.20)
ENABLED, ONLINE_CAPABLE = 1, 2  # local APIC flags (ACPI 6.5 table 5.23)
GICC_ENABLED, GICC_ONLINE_CAPABLE = 1, 8  # GICC flags (ACPI 6.5 table 5.37)
ALL_LOCAL_APICS, ALL_LOCAL_X2APICS = 0xFF, 0xFFFF_FFFF  # processor UIDs that mean every processor


def madt(lapic_address: int, flags: int, structures: Iterable[bytes], ids: Ids) -> bytes:
    """MADT of revision 5, the first with the online-capable flag (ACPI 6.5 §5.2.12).

    `lapic_address` is 32 bits wide; 0 on machines without local APICs.
    """
    return sdt(b"APIC", 5, packed("MADT", "II", lapic_address, flags) + b"".join(structures), ids)


def local_apic(uid: int, apic_id: int, flags: int = ENABLED) -> bytes:
    """Processor with an APIC id below 255 (ACPI 6.5 §5.2.12.2)."""
    return packed("local APIC", "BBBBI", 0, 8, uid, apic_id, flags)


def local_x2apic(uid: int, apic_id: int, flags: int = ENABLED) -> bytes:
    """Processor with a 32-bit APIC id (ACPI 6.5 §5.2.12.12)."""
    return packed("local x2APIC", "BBHIII", 9, 16, 0, apic_id, flags, uid)


def io_apic(apic_id: int, address: int, gsi_base: int = 0) -> bytes:
    """I/O APIC; its pins are the global system interrupts from `gsi_base` (ACPI 6.5 §5.2.12.3)."""
    return packed("I/O APIC", "BBBBII", 1, 12, apic_id, 0, address, gsi_base)


def source_override(source: int, gsi: int, flags: int = 0, bus: int = 0) -> bytes:
    """ISA interrupt `source` arrives at `gsi`; `flags` are MPS INTI flags (ACPI 6.5 §5.2.12.5)."""
    return packed("interrupt source override", "BBBBIH", 2, 10, bus, source, gsi, flags)


def local_apic_nmi(uid: int = ALL_LOCAL_APICS, flags: int = 0, lint: int = 1) -> bytes:
    """NMI at the local APIC pin LINT`lint` (ACPI 6.5 §5.2.12.7)."""
    return packed("local APIC NMI", "BBBHB", 4, 6, uid, flags, lint)


def local_x2apic_nmi(uid: int = ALL_LOCAL_X2APICS, flags: int = 0, lint: int = 1) -> bytes:
    """NMI at the local x2APIC pin LINT`lint` (ACPI 6.5 §5.2.12.13)."""
    return packed("local x2APIC NMI", "BBHIB3s", 10, 12, flags, uid, lint, bytes(3))


def gicc(
    uid: int,
    mpidr: int,
    flags: int = GICC_ENABLED,
    *,
    interface: int | None = None,
    performance_gsiv: int = 0,
    parking_version: int = 0,
    parked_address: int = 0,
    base: int = 0,
    gicv: int = 0,
    gich: int = 0,
    vgic_maintenance: int = 0,
    gicr_base: int = 0,
    efficiency_class: int = 0,
    spe_overflow: int = 0,
) -> bytes:
    """GIC CPU interface of one processor, 80 bytes (ACPI 6.5 §5.2.12.14, without the TRBE interrupt).

    `interface` is the CPU interface number and defaults to `uid`; `gicr_base` stays 0 when a `gicr()`
    describes the redistributors.
    """
    number = uid if interface is None else interface
    head = packed("GICC", "BBHIIIIIQQ", 11, 80, 0, number, uid, flags, parking_version, performance_gsiv,
                  parked_address, base)  # fmt: skip
    return head + packed("GICC", "QQIQQBBH", gicv, gich, vgic_maintenance, gicr_base, mpidr,
                         efficiency_class, 0, spe_overflow)  # fmt: skip


def gicd(gic_id: int, address: int, version: int) -> bytes:
    """GIC distributor of a GIC `version` 1 to 4 (ACPI 6.5 §5.2.12.15)."""
    return packed("GICD", "BBHIQIB3s", 12, 24, 0, gic_id, address, 0, version, bytes(3))


def gic_msi_frame(frame_id: int, address: int, spi_base: int = 0, spi_count: int = 0) -> bytes:
    """GICv2m MSI frame; with a `spi_count` the SPI range overrides MSI_TYPER (ACPI 6.5 §5.2.12.16)."""
    select = 1 if spi_count else 0
    return packed("GIC MSI frame", "BBHIQIHH", 13, 24, 0, frame_id, address, select, spi_count, spi_base)


def gicr(address: int, size: int) -> bytes:
    """Range of GIC redistributors, `size` bytes (ACPI 6.5 §5.2.12.17)."""
    return packed("GICR", "BBHQI", 14, 16, 0, address, size)


def its(its_id: int, address: int) -> bytes:
    """GIC interrupt translation service (ACPI 6.5 §5.2.12.18)."""
    return packed("GIC ITS", "BBHIQI", 15, 20, 0, its_id, address, 0)
