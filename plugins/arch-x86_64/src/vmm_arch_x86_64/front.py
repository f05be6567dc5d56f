# SPDX-License-Identifier: Apache-2.0
"""The last step of planning: firmware tables, boot structures and first registers."""

from __future__ import annotations

from vmmcore.errors import UserError, VmmError

from . import addresses as at
from . import boot, smbios, topology

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_acpi.machine import Blob
    from vmmcore.front.planning import PlanContext

PCI_SLOTS = 32
MEMORY_SLOTS = 8
#: parts of the platform that have a page of registers
PAGES = ("ged", "cpu_hotplug", "memory_hotplug", "pci_hotplug")


def finish(context: PlanContext, entry: dict[str, Any] | None) -> None:
    """Fill ``plan["platform"]`` and ``plan["entry"]``, load all that the guest finds in memory.

    Raises UserError: no kernel, a command line too long, more CPUs than the tables can hold.
    """
    if entry is None:
        raise UserError("--kernel", "nothing to boot", "give --kernel FILE")
    protocol = entry["protocol"]
    if protocol not in ("linux64", "pvh"):
        raise VmmError(f"boot protocol {protocol!r} is unknown to x86-64")
    config, layout, plan = context.config, context.layout, context.plan

    cmdline = command_line(context.cmdline, entry)
    levels = topology.topology(config.cpus.max, config.cpus.topology)
    registers = sum(layout.extra["platform_mmio"])  # given out from the end, in pages
    platform: dict[str, Any] = {
        "sleep_port": at.SLEEP_PORT, "reset_port": at.SLEEP_PORT, "pm_timer_port": at.PM_TIMER_PORT,
        "rtc_port": at.RTC_PORT, "i8042": True,
        "ged": {"address": registers - 4096, "gsi": context.gsi()},
        "pci_hotplug": {"address": registers - 4 * 4096},
        "phys_bits": layout.extra["phys_bits"],
        "topology": levels,
        "apic_ids": topology.apic_ids(config.cpus.max, levels),
        "low_ram": layout.low_ram_end, "high_ram": sum(size for base, size in layout.ram if base),
    }
    if config.cpus.max > 1:
        platform["cpu_hotplug"] = {"address": registers - 2 * 4096}
    if layout.hotplug and config.memory.hotplug_method == "acpi":
        platform["memory_hotplug"] = {"address": registers - 3 * 4096, "slots": MEMORY_SLOTS}
    plan["platform"] = platform
    for port, size in ((0x61, 1), (0x64, 1), (at.RTC_PORT, 2), (at.SLEEP_PORT, 1), (at.PM_TIMER_PORT, 4)):
        context.ports(port, size, "arch-x86_64")
    for address in register_pages(platform):
        context.mmio(address, 4096, "arch-x86_64")

    tables = acpi(context, platform)
    context.load_bytes(tables.address, tables.data)
    if "cpu_hotplug" in platform:
        platform["madt"] = madt_flags(tables, config.cpus.boot)
    context.load_bytes(at.SMBIOS, system_tables(config))
    context.load_bytes(at.CMDLINE, cmdline + b"\0")

    ecam = [(layout.segments[0]["ecam"], len(layout.segments) * at.ECAM_PER_SEGMENT)]
    ranges = boot.memory_map(layout.ram, ecam)
    state = boot.registers(protocol, entry["rip"])
    context.load_bytes(at.EBDA_POINTER, boot.low_page(state["cs"][1]))
    initramfs = entry.get("initramfs")
    if protocol == "linux64":
        context.load_bytes(at.PML4, boot.page_tables())
        platform["memory_map"] = [at.ZERO_PAGE + boot.E820_COUNT, 1, at.ZERO_PAGE + boot.E820_TABLE, 20]
        context.load_bytes(at.ZERO_PAGE, boot.zero_page(
            ranges, header=entry.get("setup_header"), cmdline=at.CMDLINE, rsdp=tables.address,
            initramfs=initramfs))
    else:
        platform["memory_map"] = [at.PVH_START_INFO + boot.PVH_MAP_COUNT, 4, at.PVH_MEMORY_MAP, 24]
        context.load_bytes(at.PVH_START_INFO, boot.pvh(ranges, cmdline=at.CMDLINE, rsdp=tables.address,
                                                       initramfs=initramfs))
    plan["entry"] = state


def register_pages(platform: dict[str, Any]) -> list[int]:
    """Addresses of the platform's registers, each a page."""
    return [platform[part]["address"] for part in PAGES if part in platform]


def system_tables(config: Any) -> bytes:
    """SMBIOS, with what ``--platform`` says of the system."""
    if config.platform is None:
        return smbios.build(at.SMBIOS)
    from vmmcore.front.zones import uuid_bytes

    given = config.platform
    return smbios.build(at.SMBIOS, uuid=uuid_bytes(given.uuid) if given.uuid else bytes(16),
                        serial=given.serial_number or "", oem_strings=given.oem_strings)


def madt_flags(tables: Blob, boot_cpus: int) -> dict[str, Any]:
    """Where the MADT has the flags of each CPU, for the runner: after a reboot others may be there.

    {"address": of the table, "flags": their offsets, "enabled": how many CPUs it says are there}
    """
    [(address, size)] = [(address, size) for name, address, size in tables.tables if name == "APIC"]
    table = tables.data[address - tables.address :][:size]
    flags, place = [], 44  # header, local APIC address, flags (ACPI 6.5 §5.2.12)
    while place < size:
        kind, length = table[place : place + 2]
        if kind in (0, 9):  # local APIC, local x2APIC
            flags.append(place + (4 if kind == 0 else 8))
        place += length
    return {"address": address, "flags": flags, "enabled": boot_cpus}


def command_line(text: str, entry: dict[str, Any]) -> bytes:
    """The command line's bytes, without the final NUL. Raises UserError if the kernel would cut it."""
    data = text.encode("utf-8", "surrogateescape")
    limit = at.CMDLINE_MAX - 1
    header = entry.get("setup_header")
    if header and len(header) >= 0x23C - boot.HEADER:
        version = int.from_bytes(header[0x206 - boot.HEADER:0x208 - boot.HEADER], "little")
        stated = int.from_bytes(header[0x238 - boot.HEADER:0x23C - boot.HEADER], "little")
        if version < 0x206:
            stated = 255
        limit = min(limit, stated or limit)
    if len(data) > limit:
        raise UserError("--cmdline", f"{len(data)} bytes; this kernel takes {limit}", "shorten it")
    return data


def acpi(context: PlanContext, platform: dict[str, Any]) -> Blob:
    """All ACPI tables, to be loaded at 0xa0000."""
    from vmm_acpi.machine import build_x86

    layout, cpus = context.layout, context.config.cpus
    ged = platform["ged"]
    prt = {slot: layout.pci_gsis[slot % len(layout.pci_gsis)] for slot in range(PCI_SLOTS)}
    serial = [
        {"port": device["resources"]["port"], "irq": device["resources"]["gsi"]}
        for device in context.device_plan("serial")
    ]
    spec: dict[str, Any] = {
        "address": at.ACPI,
        "max_size": at.ACPI_MAX,
        "cpus": [{"apic_id": apic, "enabled": n < cpus.boot} for n, apic in enumerate(platform["apic_ids"])],
        "segments": [
            {
                "id": segment["id"],
                "ecam": segment["ecam"],
                "mmio32": tuple(segment["mmio32"]),
                "mmio64": tuple(segment["mmio64"]),
                "io": [tuple(segment["pio"])] if segment["pio"][1] else [],
                "prt": prt,
            }
            for segment in layout.segments
        ],
        "ioapics": [{"address": at.IOAPIC}],
        "isos": [{"source": port["irq"], "gsi": port["irq"]} for port in serial if port["irq"] < 16],
        "ged": ged,
        "pci_hotplug": platform["pci_hotplug"]["address"],
        "preserve_boot_config": True,
        "sleep_port": platform["sleep_port"],
        "reset_port": platform["reset_port"],
        # The PM timer is there, for firmware; Linux, which has better clocks, would spend 11 ms on checking it.
        "serial": serial,
        "rtc": {"port": platform["rtc_port"]},
        "reserved": [(address, 4096) for address in register_pages(platform)],
        "reserved_io": [(platform["sleep_port"], 1), (platform["pm_timer_port"], 4)],
        "extra": [node for nodes in context.hooks.vmm_acpi_nodes(context=context) for node in nodes],
    }
    if context.config.numa:
        from vmm_acpi import numa
        from vmmcore.front import zones

        config = context.config
        pieces = {zone["id"]: zone["regions"] for zone in context.plan["memory"]["zones"]}
        numa.describe(spec, zones.nodes(config), pieces, layout.hotplug, zones.distances(config))
    try:
        add_hotplug(spec, platform)
        return build_x86(spec)  # type: ignore[arg-type]
    except ValueError as error:
        if "CPU" not in str(error) and cpus.max < 256:
            raise
        raise UserError("--cpus max=", f"{cpus.max}: {error}", "ask for fewer CPUs") from None


def add_hotplug(spec: dict[str, Any], platform: dict[str, Any]) -> None:
    """The controllers of CPUs and memory, for a description of the tables."""
    scan = spec.setdefault("scan", {})
    if "cpu_hotplug" in platform:
        from vmm_acpi import cpu_hotplug, madt

        for index, cpu in enumerate(spec["cpus"]):
            number = cpu["apic_id"]
            make = madt.local_apic if number < 0xFF and index < 0xFF else madt.local_x2apic
            cpu["aml"] = cpu_hotplug.processor(index, make(index, number))
        spec["cpus_aml"] = cpu_hotplug.methods(len(spec["cpus"]))
        spec["extra"].append(cpu_hotplug.controller(platform["cpu_hotplug"]["address"]))
        scan["cpu"] = cpu_hotplug.SCAN
    if "memory_hotplug" in platform:
        from vmm_acpi import memory_hotplug

        spec["extra"].append(memory_hotplug.controller(platform["memory_hotplug"]["address"], MEMORY_SLOTS))
        scan["memory"] = memory_hotplug.SCAN
