# SPDX-License-Identifier: Apache-2.0
"""Types of the machine descriptions that `build_x86` and `build_arm` of `vmm_acpi.machine` take.

Only for type checkers: import it under `TYPE_CHECKING`; at run time the description is a plain dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

Range = tuple[int, int]  # base address and size in bytes


class CommonCpu(TypedDict):
    """One possible vCPU.  `aml` is placed in its device and then provides `_STA`."""

    enabled: NotRequired[bool]
    uid: NotRequired[int]
    node: NotRequired[int]
    aml: NotRequired[bytes]


class Cpu(CommonCpu):
    """One possible x86 vCPU."""

    apic_id: int


class ArmCpu(CommonCpu):
    """One possible Arm vCPU; `mpidr` has the affinity fields only, `pmu_ppi` is 0..15."""

    mpidr: int
    pmu_ppi: NotRequired[int]


class Segment(TypedDict):
    """One PCI segment with its host bridge.  `ecam` is the address of bus 0, slot 0, function 0.

    `io` are x86 ports; `pio` is the guest-physical range in which bus ports from 0 on appear; `device_id`
    is what the ITS sees of bus 0, slot 0, function 0.
    """

    id: int
    ecam: int
    buses: NotRequired[tuple[int, int]]
    mmio32: NotRequired[Range | None]
    mmio64: NotRequired[Range | None]
    io: NotRequired[Sequence[Range]]
    pio: NotRequired[Range | None]
    device_id: NotRequired[int]
    cf8: NotRequired[bool]
    prt: NotRequired[Mapping[int, int | Sequence[int | None]]]
    node: NotRequired[int]
    aml: NotRequired[bytes]


class IoApic(TypedDict):
    """One I/O APIC."""

    address: int
    id: NotRequired[int]
    gsi_base: NotRequired[int]


class SourceOverride(TypedDict):
    """ISA interrupt `source` arrives at `gsi`."""

    source: int
    gsi: int
    flags: NotRequired[int]
    bus: NotRequired[int]


class Ged(TypedDict):
    """Generic event device: its interrupt and its 1-byte event register (reading clears it)."""

    gsi: int
    address: int


class Scan(TypedDict, total=False):
    """Absolute names of the methods that the event bits 0, 1 and 2 call."""

    cpu: str
    memory: str
    pci: str


class Serial(TypedDict):
    """A 16550 port."""

    port: int
    irq: int
    size: NotRequired[int]


class CpuHotplug(TypedDict):
    """Registers of CPU hot plug, and how many CPUs, from the first on, are always there."""

    address: int
    fixed: int


class ArmSerial(TypedDict):
    """A PL011 or PL061: 4 KiB of registers and an interrupt."""

    address: int
    gsi: int


class Gic(TypedDict):
    """GICv3: the distributor, the range of the redistributors, the ITS (without it, no MSIs)."""

    dist: int
    redist: Range
    its: NotRequired[int | None]


class Rtc(TypedDict):
    """A CMOS clock."""

    port: int
    size: NotRequired[int]
    irq: NotRequired[int | None]


class Memory(TypedDict):
    """A memory range of a NUMA node."""

    base: int
    size: int
    node: int
    hotplug: NotRequired[bool]


class CommonSpec(TypedDict):
    """What every machine has; README.md tells what each key means."""

    address: int
    segments: Sequence[Segment]
    ged: NotRequired[Ged | None]
    scan: NotRequired[Scan]
    pci_hotplug: NotRequired[int | None]
    sleep_port: NotRequired[int | None]
    fadt_flags: NotRequired[int]
    reserved: NotRequired[Sequence[Range]]
    reserved_io: NotRequired[Sequence[Range]]
    preserve_boot_config: NotRequired[bool | None]
    osc_control: NotRequired[int]
    extra: NotRequired[Sequence[bytes]]
    extra_root: NotRequired[Sequence[bytes]]
    cpus_aml: NotRequired[bytes]
    madt_extra: NotRequired[Sequence[bytes]]
    memory: NotRequired[Sequence[Memory]]
    distances: NotRequired[Sequence[Sequence[int]]]
    srat_extra: NotRequired[Sequence[bytes]]
    tables: NotRequired[Sequence[bytes]]
    oem_id: NotRequired[bytes]
    oem_table_id: NotRequired[bytes]
    oem_revision: NotRequired[int]
    creator_id: NotRequired[bytes]
    hypervisor_id: NotRequired[bytes]
    max_size: NotRequired[int]


class X86Spec(CommonSpec):
    """An x86 machine."""

    cpus: Sequence[Cpu]
    ioapics: Sequence[IoApic]
    lapic_address: NotRequired[int]
    apic_mode: NotRequired[str]
    isos: NotRequired[Sequence[SourceOverride]]
    lapic_nmi: NotRequired[bool]
    pcat_compat: NotRequired[bool]
    reset_port: NotRequired[int | None]
    reset_value: NotRequired[int]
    pm_timer_port: NotRequired[int | None]
    serial: NotRequired[Sequence[Serial]]
    rtc: NotRequired[Rtc | None]
    vga: NotRequired[bool]
    boot_arch: NotRequired[int]


class ArmSpec(CommonSpec):
    """An Arm machine.  All interrupts are GSIs: GSI n is SPI n."""

    cpus: Sequence[ArmCpu]
    gic: Gic
    topology: NotRequired[Sequence[int]]
    cpu_hotplug: NotRequired[CpuHotplug]
    timers: NotRequired[Sequence[int]]
    psci: NotRequired[str]
    serial: NotRequired[Sequence[ArmSerial]]
    gpio: NotRequired[ArmSerial | None]
