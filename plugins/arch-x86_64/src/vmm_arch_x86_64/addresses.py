# SPDX-License-Identifier: Apache-2.0
"""Fixed guest-physical addresses, I/O ports and interrupts of the x86-64 machine (see README.md)."""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Low memory: boot structures that the guest may overwrite once it runs.
EBDA_POINTER = 0x40E  # word: segment of the extended BIOS data area
GDT = 0x500
IDT = 0x520
PVH_START_INFO = 0x6000
PVH_MODULES = 0x6040
PVH_MEMORY_MAP = 0x7000
ZERO_PAGE = 0x7000
BOOT_STACK = 0x8FF0
PML4 = 0xA000
PDPT = 0xB000
PAGE_DIRECTORY = 0xC000
CMDLINE = 0x20000
CMDLINE_MAX = 64 * KIB  # with its final NUL
LOW_RAM_END = 0xA0000

# 640 KiB to 1 MiB: backed by RAM, but no RAM in the guest's memory map.
ACPI = 0xA0000
ACPI_MAX = 0x50000  # up to SMBIOS
SMBIOS = 0xF0000
SMBIOS_MAX = 0x10000

HIGH_RAM = MIB
RAM_HOLE = 3 * GIB  # RAM goes on at 4 GiB
RAM_ABOVE = 4 * GIB
MMIO32 = 0xC0000000
MMIO32_SIZE = 640 * MIB
ECAM = 0xE8000000
ECAM_PER_SEGMENT = MIB  # one bus
MAX_SEGMENTS = 96
KVM_TSS = 0xF8000000
KVM_IDENTITY_MAP = 0xF8003000
IOAPIC = 0xFEC00000
LAPIC = 0xFEE00000

TOP_GAP = 64 * KIB  # left free below the end of the physical address space
PLATFORM_MMIO_SIZE = MIB  # registers of the platform, below the gap; given out from the top, in pages

# I/O ports
SLEEP_PORT = 0x600  # sleep control, sleep status and reset
PM_TIMER_PORT = 0x608
RTC_PORT = 0x70
PIO_BASE, PIO_SIZE = 0x1000, 0xF000  # for PCI BARs; below: ISA and the platform

# I/O APIC pins
PCI_GSIS = tuple(range(5, 13))
PLATFORM_GSIS = (*range(13, 24), 3, 4)  # 4 and 3, COM1's and COM2's, last: given to those who ask for them
