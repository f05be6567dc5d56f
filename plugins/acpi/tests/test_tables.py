# SPDX-License-Identifier: Apache-2.0
"""Data tables: sums, and every field as ACPICA reads it."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from conftest import Iasl

from vmm_acpi import madt as m
from vmm_acpi import numa as n
from vmm_acpi import tables as t

IDS = t.Ids()
Reader = Callable[[bytes, str], list[str]]

FADT = t.fadt(
    0x12345678,
    IDS,
    boot_arch=t.BOOT_VGA_NOT_PRESENT | t.BOOT_CMOS_RTC_NOT_PRESENT,
    arm_boot_arch=t.ARM_PSCI_COMPLIANT | t.ARM_PSCI_USE_HVC,
    sleep_control=t.gas(t.SYSTEM_IO, 0x600, 8, 1),
    sleep_status=t.gas(t.SYSTEM_IO, 0x601, 8, 1),
    reset_register=t.gas(t.SYSTEM_MEMORY, 0x1122334455667788, 16, 2),
    reset_value=7,
    pm_timer_port=0x608,
    pm_profile=4,
    hypervisor_id=b"HYPERVSR",
)
MADT_X86 = m.madt(
    0xFEE00000,
    m.PCAT_COMPAT,
    [
        *(m.local_apic(0, 1), m.local_apic(1, 2, m.ONLINE_CAPABLE), m.local_x2apic(300, 0x12345)),
        *(m.io_apic(2, 0xFEC00000, 24), m.source_override(9, 20, 0x0D), m.local_apic_nmi()),
        m.local_x2apic_nmi(),
    ],
    IDS,
)
MADT_ARM = m.madt(
    0,
    0,
    [
        m.gicc(
            3,
            0x8000_0102,
            base=0x13000,
            gicv=0x11000,
            gich=0x12000,
            gicr_base=0x14000,
            performance_gsiv=23,
            vgic_maintenance=25,
            efficiency_class=5,
            spe_overflow=21,
            parking_version=1,
            parked_address=0x15000,
        ),
        m.gicc(4, 0x103),
        *(m.gicd(0, 0x08FF_0000, 3), m.gicr(0x08F0_0000, 0x40000), m.its(1, 0x08EE_0000)),
        m.gic_msi_frame(2, 0x0802_0000, spi_base=128, spi_count=64),
    ],
    IDS,
)
SRAT = n.srat(
    [
        *(n.apic_affinity(0x12345601, 7), n.x2apic_affinity(2, 0x1234), n.gicc_affinity(3, 9)),
        n.memory_affinity(4, 0x1_0000_0000, 0x4000_0000, n.ENABLED | n.HOT_PLUGGABLE),
    ],
    IDS,
)
TABLES = {
    "FACP": FADT,
    "APIC x86": MADT_X86,
    "APIC Arm": MADT_ARM,
    "MCFG": t.mcfg([(0xE8000000, 0, 0, 0), (0xE8100000, 1, 0, 7)], IDS),
    "SRAT": SRAT,
    "SLIT": n.slit([[10, 20], [21, 10]], IDS),
    "XSDT": t.xsdt([0x1000, 0x1_0000_0000], IDS),
}


@pytest.mark.parametrize("key", TABLES)
def test_length_and_sum(key: str) -> None:
    table = TABLES[key]
    assert sum(table) % 256 == 0
    assert struct.unpack_from("<I", table, 4) == (len(table),)
    assert table[:4].decode() == key[:4]
    assert table[10:16] == b"VMM   "


@pytest.mark.parametrize("key", TABLES)
def test_iasl_reads_every_byte_and_makes_the_same_table(iasl: Iasl, key: str) -> None:
    again, said = iasl.round_trip(TABLES[key])
    assert said == []
    assert again[36:].hex(" ") == TABLES[key][36:].hex(" ")  # the header gets the compiler's own id


def test_rsdp() -> None:
    rsdp = t.rsdp(0x1_2345_6780, IDS)
    assert rsdp[:8] == b"RSD PTR " and len(rsdp) == 36
    assert sum(rsdp[:20]) % 256 == 0 and sum(rsdp) % 256 == 0
    assert struct.unpack_from("<BIIQ", rsdp, 15) == (2, 0, 36, 0x1_2345_6780)


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("DSDT Address", ["12345678", "0000000012345678"]),
        ("FADT Minor Revision", ["05"]),
        ("Hardware Reduced (V5)", ["1"]),
        ("Reset Register Supported (V2)", ["1"]),
        ("32-bit PM Timer (V1)", ["1"]),
        ("Control Method Power Button (V1)", ["1"]),
        ("VGA Not Present (V4)", ["1"]),
        ("CMOS RTC Not Present (V5)", ["1"]),
        ("MSI Not Supported (V4)", ["0"]),
        ("PSCI Compliant", ["1"]),
        ("Must use HVC for PSCI", ["1"]),
        ("Value to cause reset", ["07"]),
        ("PM Timer Block Address", ["00000608"]),
        ("PM Timer Block Length", ["04"]),
        ("PM Profile", ["04"]),
    ],
)
def test_fadt_fields(field_of: Reader, label: str, values: list[str]) -> None:
    assert field_of(FADT, label) == values


def test_fadt_registers(iasl: Iasl) -> None:
    text = iasl.disassemble(FADT)
    for title, address in (
        ("Reset Register", "1122334455667788"),
        ("PM Timer Block", "0000000000000608"),
        ("Sleep Control Register", "0000000000000600"),
        ("Sleep Status Register", "0000000000000601"),
    ):
        tail = text[text.index(f" {title} : [Generic") :]
        assert tail[tail.index("Address : ") + 10 :].startswith(address), title
    assert len(FADT) == 276
    assert FADT[268:] == b"HYPERVSR"


def test_fadt_without_registers(field_of: Reader) -> None:
    plain = t.fadt(1 << 32, IDS)
    assert field_of(plain, "Reset Register Supported (V2)") == ["0"]
    assert field_of(plain, "32-bit PM Timer (V1)") == ["0"]
    assert field_of(plain, "DSDT Address") == ["00000000", "0000000100000000"]


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("Local Apic Address", ["FEE00000"]),
        ("PC-AT Compatibility", ["1"]),
        ("Processor ID", ["00", "01", "FF"]),
        ("Local Apic ID", ["01", "02"]),
        ("Processor x2Apic ID", ["00012345"]),
        ("Processor UID", ["0000012C", "FFFFFFFF"]),
        ("Processor Enabled", ["1", "0", "1"]),
        ("Runtime Online Capable", ["0", "1"]),
        ("Address", ["FEC00000"]),
        ("I/O Apic ID", ["02"]),
        ("Source", ["09"]),
        ("Interrupt", ["00000018", "00000014"]),
        ("Interrupt Input LINT", ["01", "01"]),
    ],
)
def test_x86_madt_fields(field_of: Reader, label: str, values: list[str]) -> None:
    assert field_of(MADT_X86, label) == values


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("Processor UID", ["00000003", "00000004"]),
        ("CPU Interface Number", ["00000003", "00000004"]),
        ("ARM MPIDR", ["0000000080000102", "0000000000000103"]),
        ("Performance Interrupt", ["00000017", "00000000"]),
        ("Virtual GIC Interrupt", ["00000019", "00000000"]),
        ("Virtual GIC Base Address", ["0000000000011000", "0000000000000000"]),
        ("Hypervisor GIC Base Address", ["0000000000012000", "0000000000000000"]),
        ("Redistributor Base Address", ["0000000000014000", "0000000000000000"]),
        ("Efficiency Class", ["05", "00"]),
        ("SPE Overflow Interrupt", ["0015", "0000"]),
        ("Parked Address", ["0000000000015000", "0000000000000000"]),
        ("Version", ["03"]),
        ("SPI Count", ["0040"]),
        ("SPI Base", ["0080"]),
        ("Translation ID", ["00000001"]),
    ],
)
def test_arm_madt_fields(field_of: Reader, label: str, values: list[str]) -> None:
    assert field_of(MADT_ARM, label) == values


def test_online_capable_flags_that_iasl_does_not_know() -> None:
    assert struct.unpack_from("<I", m.local_x2apic(0, 300, m.ONLINE_CAPABLE), 8) == (2,)
    assert struct.unpack_from("<I", m.gicc(0, 0, m.GICC_ONLINE_CAPABLE), 12) == (8,)


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("Proximity Domain Low(8)", ["01"]),
        ("Proximity Domain High(24)", ["123456"]),
        ("Apic ID", ["07", "00001234"]),
        ("Acpi Processor UID", ["00000009"]),
        ("Base Address", ["0000000100000000"]),
        ("Address Length", ["0000000040000000"]),
        ("Hot Pluggable", ["1"]),
        ("Non-Volatile", ["0"]),
    ],
)
def test_srat_fields(field_of: Reader, label: str, values: list[str]) -> None:
    assert field_of(SRAT, label) == values


def test_values_that_do_not_fit_are_refused() -> None:
    for make in (
        lambda: t.Ids(oem_id=b"VMM"),
        lambda: t.sdt(b"ABC", 1, b"", IDS),
        lambda: t.mcfg([(0, 0x10000, 0, 0)], IDS),
        lambda: t.fadt(-1, IDS),
        lambda: t.fadt(0, IDS, boot_arch=0x10000),
        lambda: t.fadt(0, IDS, hypervisor_id=b""),
        lambda: t.xsdt([1 << 64], IDS),
        lambda: m.local_apic(256, 0),
        lambda: n.slit([[10, 20]], IDS),
        lambda: n.slit([[10, 9], [20, 10]], IDS),
        lambda: n.slit([[11]], IDS),
    ):
        with pytest.raises(ValueError, match="ACPI|NUMA"):
            make()
