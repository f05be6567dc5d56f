# SPDX-License-Identifier: Apache-2.0
r"""What `vmm_acpi.machine.build_arm` does: the tables that only Arm machines have (`vmm_acpi.spec.ArmSpec`).

The machine has a GICv3 with an ITS, the generic timer, PSCI and no legacy (Arm BBR 2.0, recipe SBBR;
BSA for the PPI numbers).
"""

from __future__ import annotations

from . import arm
from . import dsdt as d
from . import madt as m
from . import tables as t
from .machine import assemble, build_dsdt, distinct, identify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .machine import Blob
    from .spec import ArmCpu, ArmSerial, ArmSpec, CpuHotplug, Segment

MAX_SIZE = 0x20_0000  # 2 MiB: 0x40200000 up to the kernel
FIRST_PPI, PPIS, FIRST_SPI = 16, 16, 32
TIMERS = (13, 14, 11, 10)  # PPIs of the timers of secure EL1, EL1, virtual, EL2 (Arm BSA 1.0 §F)
RIDS_PER_BUS = 0x100
DEVICE_IDS = 0x1_0000  # KVM's ITS knows 16 bits
ITS_ID = 0
CONDUITS = {"hvc": t.ARM_PSCI_USE_HVC, "smc": 0}

_REQUIRED = frozenset(("gic",))
_OPTIONAL = frozenset(("topology", "cpu_hotplug", "timers", "psci", "gpio"))


def build(spec: ArmSpec) -> Blob:
    """See `vmm_acpi.machine.build_arm`."""
    ids = identify(spec, _REQUIRED, _OPTIONAL)
    uids = [cpu.get("uid", index) for index, cpu in enumerate(spec["cpus"])]
    distinct("MPIDR", [cpu["mpidr"] for cpu in spec["cpus"]])
    distinct("processor UID", uids)
    psci = spec.get("psci", "hvc")
    if psci not in CONDUITS:
        raise ValueError(f"ACPI psci {psci!r}: hvc or smc")
    threads, cores, clusters, packages = spec.get("topology") or (1, len(uids), 1, 1)
    tree = arm.processor_tree(packages, clusters, cores, threads, uids)
    if hotplug := spec.get("cpu_hotplug"):
        spec = _with_cpu_hotplug(spec, uids, hotplug, arm.processor_paths(tree))
    ged, gpio = spec.get("ged"), spec.get("gpio")
    serial = [_wired(port) for port in spec.get("serial", ())]
    wired: ArmSpec = {**spec, "segments": [_segment(segment) for segment in spec["segments"]]}
    if ged:
        wired["ged"] = {**ged, "gsi": gsiv(ged["gsi"])}
    devices = [d.pl011(index, port) for index, port in enumerate(serial)]
    if gpio:
        devices.append(d.pl061(_wired(gpio)))
    dsdt = build_dsdt(wired, ids, d.processors(spec["cpus"], spec.get("cpus_aml", b""), tree), devices)

    def tables(dsdt_address: int) -> list[bytes]:
        fadt = t.fadt(
            dsdt_address,
            ids,
            flags=t.HW_REDUCED_ACPI | t.PWR_BUTTON | t.SLP_BUTTON | spec.get("fadt_flags", 0),
            arm_boot_arch=t.ARM_PSCI_COMPLIANT | CONDUITS[psci],
            hypervisor_id=spec.get("hypervisor_id", b"VMM     "),
        )
        secure, plain, virtual, hypervisor = (ppi(number) for number in spec.get("timers", TIMERS))
        out = [fadt, _madt(spec, uids, ids), arm.gtdt(secure, plain, virtual, hypervisor, ids)]
        if serial:
            register = t.gas(t.SYSTEM_MEMORY, serial[0]["address"], 32, 3)
            out.append(arm.spcr(register, serial[0]["gsi"], ids))
            out.append(arm.dbg2(register, 0x1000, "\\_SB.COM1", ids))
        if spec["segments"] and spec["gic"].get("its") is not None:
            out.append(arm.iort(ITS_ID, _complexes(spec["segments"]), ids))
        return [*out, arm.pptt(tree, ids)]

    return assemble(spec, ids, dsdt, tables, lambda: _cpu_affinities(spec, uids), MAX_SIZE)


def _with_cpu_hotplug(
    spec: ArmSpec, uids: Sequence[int], hotplug: CpuHotplug, paths: Sequence[str]
) -> ArmSpec:
    """The description with the AML of CPUs that come and go; what the MADT says is enabled stays."""
    from . import cpu_hotplug as c

    def described(index: int, cpu: ArmCpu) -> ArmCpu:
        if index < hotplug["fixed"]:
            return cpu
        entry = m.gicc(uids[index], cpu["mpidr"], m.GICC_ENABLED, performance_gsiv=_performance_gsiv(cpu))
        return {**cpu, "aml": c.processor(index, entry)}

    cpus = [described(index, cpu) for index, cpu in enumerate(spec["cpus"])]
    return {
        **spec,
        "cpus": cpus,
        "cpus_aml": c.methods(len(cpus), paths=paths, absent=c.DISABLED),
        "extra": [*spec.get("extra", ()), c.controller(hotplug["address"])],
        "scan": {**spec.get("scan", {}), "cpu": c.SCAN},
    }


def _performance_gsiv(cpu: ArmCpu) -> int:
    return ppi(cpu["pmu_ppi"]) if "pmu_ppi" in cpu else 0


def gsiv(gsi: int) -> int:
    """The interrupt's number in ACPI tables, its INTID: GSI n is SPI n."""
    return FIRST_SPI + gsi


def ppi(number: int) -> int:
    """The INTID of a private interrupt.  Raises ValueError outside 0..15."""
    if not 0 <= number < PPIS:
        raise ValueError(f"ACPI: PPI {number} is outside 0..{PPIS - 1}")
    return FIRST_PPI + number


def _wired(device: ArmSerial) -> ArmSerial:
    return {**device, "gsi": gsiv(device["gsi"])}


def _segment(segment: Segment) -> Segment:
    """The segment with GSIVs in its _PRT, and without x86's configuration ports."""
    routing: dict[int, int | Sequence[int | None]] = {}
    for slot, gsis in segment.get("prt", {}).items():
        if isinstance(gsis, int):
            routing[slot] = gsiv(gsis)
        else:
            routing[slot] = [None if gsi is None else gsiv(gsi) for gsi in gsis]
    return {**segment, "cf8": False, "prt": routing}


def _complexes(segments: Sequence[Segment]) -> list[tuple[int, int, int, int]]:
    """What `arm.iort` takes; DeviceIDs follow segments unless told otherwise, 256 each."""
    out: list[tuple[int, int, int, int]] = []
    end = 0
    for segment in sorted(segments, key=lambda one: one.get("device_id", one["id"] * RIDS_PER_BUS)):
        first, last = segment.get("buses", (0, 0))
        rid, count = first * RIDS_PER_BUS, (last - first + 1) * RIDS_PER_BUS
        device_id = segment.get("device_id", segment["id"] * RIDS_PER_BUS) + rid
        if not end <= device_id <= DEVICE_IDS - count:
            raise ValueError(
                f"PCI segment {segment['id']}: DeviceIDs {device_id:#x}..{device_id + count - 1:#x}"
                f" are another's or do not fit {DEVICE_IDS - 1:#x}"
            )
        end = device_id + count
        out.append((segment["id"], rid, count, device_id))
    return out


def _madt(spec: ArmSpec, uids: Sequence[int], ids: t.Ids) -> bytes:
    """Processors in the order given, then the parts of the GIC (ACPI 6.5 §5.2.12.14-18)."""
    gic = spec["gic"]
    structures = []
    for uid, cpu in zip(uids, spec["cpus"], strict=True):
        # Only a device with AML of its own can ever say that its processor has come.
        absent = m.GICC_ONLINE_CAPABLE if cpu.get("aml") else 0
        flags = m.GICC_ENABLED if cpu.get("enabled", True) else absent
        structures.append(m.gicc(uid, cpu["mpidr"], flags, performance_gsiv=_performance_gsiv(cpu)))
    structures += [m.gicd(0, gic["dist"], 3), m.gicr(*gic["redist"])]
    its = gic.get("its")
    if its is not None:
        structures.append(m.its(ITS_ID, its))
    return m.madt(0, 0, [*structures, *spec.get("madt_extra", ())], ids)


def _cpu_affinities(spec: ArmSpec, uids: Sequence[int]) -> list[bytes]:
    from . import numa

    return [
        numa.gicc_affinity(cpu.get("node", 0), uid) for uid, cpu in zip(uids, spec["cpus"], strict=True)
    ]
