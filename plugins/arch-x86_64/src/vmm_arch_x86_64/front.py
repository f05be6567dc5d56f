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
    plan["platform"] = platform
    for port, size in ((0x61, 1), (0x64, 1), (at.RTC_PORT, 2), (at.SLEEP_PORT, 1), (at.PM_TIMER_PORT, 4)):
        context.ports(port, size, "arch-x86_64")
    for part in ("ged", "pci_hotplug"):
        context.mmio(platform[part]["address"], 4096, "arch-x86_64")

    tables = acpi(context, platform)
    context.load_bytes(tables.address, tables.data)
    context.load_bytes(at.SMBIOS, smbios.build(at.SMBIOS, uuid=getattr(config, "uuid", None) or bytes(16)))
    context.load_bytes(at.CMDLINE, cmdline + b"\0")

    ecam = [(layout.segments[0]["ecam"], len(layout.segments) * at.ECAM_PER_SEGMENT)]
    ranges = boot.memory_map(layout.ram, ecam)
    state = boot.registers(protocol, entry["rip"])
    context.load_bytes(at.EBDA_POINTER, boot.low_page(state["cs"][1]))
    initramfs = entry.get("initramfs")
    if protocol == "linux64":
        context.load_bytes(at.PML4, boot.page_tables())
        context.load_bytes(at.ZERO_PAGE, boot.zero_page(
            ranges, header=entry.get("setup_header"), cmdline=at.CMDLINE, rsdp=tables.address,
            initramfs=initramfs))
    else:
        context.load_bytes(at.PVH_START_INFO, boot.pvh(ranges, cmdline=at.CMDLINE, rsdp=tables.address,
                                                       initramfs=initramfs))
    plan["entry"] = state


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
        "reserved": [(platform[part]["address"], 4096) for part in ("ged", "pci_hotplug")],
        "reserved_io": [(platform["sleep_port"], 1), (platform["pm_timer_port"], 4)],
        "extra": [node for nodes in context.hooks.vmm_acpi_nodes(context=context) for node in nodes],
    }
    try:
        return build_x86(spec)  # type: ignore[arg-type]
    except ValueError as error:
        if "CPU" not in str(error) and cpus.max < 256:
            raise
        raise UserError("--cpus max=", f"{cpus.max}: {error}", "ask for fewer CPUs") from None
