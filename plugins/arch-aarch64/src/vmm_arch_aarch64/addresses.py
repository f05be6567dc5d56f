# SPDX-License-Identifier: Apache-2.0
"""Fixed guest-physical addresses and interrupts of the AArch64 machine (see README.md)."""

from __future__ import annotations

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

FLASH_END = 128 * MIB  # two banks of 64 MiB: code, variables
GIC_DIST = 0x08FF0000  # redistributors below it, the ITS below those
GIC_DIST_SIZE = 64 * KIB
GIC_REDIST_SIZE = 128 * KIB  # of each vCPU
GIC_ITS_SIZE = 128 * KIB
# 0x09000000, 0x09010000, 0x09020000 and 0x09030000: PL011, PL031, PL061 and fw_cfg, which claim them themselves
GED = 0x09040000  # the generic event device's byte
CPU_HOTPLUG = GED + 4096  # registers of CPU hot plug
MEMORY_HOTPLUG = GED + 2 * 4096  # of memory hot plug
PCI_HOTPLUG = GED + 3 * 4096  # and of PCI hot plug
PORTS, PORTS_SIZE = 0x09050000, 64 * KIB  # I/O ports of PCI
PORT_MIN = 0x1000  # of BARs; Linux gives out none below
MMIO32, MMIO32_SIZE = 0x10000000, 512 * MIB
ECAM = 0x30000000
ECAM_PER_SEGMENT = MIB  # one bus
MAX_SEGMENTS = 96

RAM = 0x40000000
FDT, FDT_SIZE = RAM, 2 * MIB
ACPI, ACPI_SIZE = RAM + 2 * MIB, 2 * MIB  # RSDP first; where there is no fw_cfg
KERNEL = RAM + 4 * MIB
RAM_HOLE = 0xFC000000  # RAM goes on at 4 GiB
RAM_ABOVE = 4 * GIB
MMIO64_MIN = 8 * GIB  # firmware does not look for it below

CMDLINE_MAX = 2048  # with its final NUL: COMMAND_LINE_SIZE of Linux for arm64

# GSI n is SPI n, which is INTID 32 + n.
IRQS = 256  # of the distributor, with the 32 that each CPU has for itself
PCI_GSIS = tuple(range(8))
GED_GSI = 10
PLATFORM_GSIS = (*range(12, 128), 8, 9, GED_GSI, 11)  # the last, the RTC's, GPIO's, GED's and PL011's, to who asks
PMU_PPI = 7  # INTID 23 (Arm BSA 1.0 §3.6)
TIMER_PPIS = (13, 14, 11, 10)  # secure, non-secure, virtual, hypervisor: INTIDs 29, 30, 27, 26
