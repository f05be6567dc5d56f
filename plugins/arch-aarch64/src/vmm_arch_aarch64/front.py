# SPDX-License-Identifier: Apache-2.0
"""The last step of planning: the device tree or ACPI tables, and the first registers."""

from __future__ import annotations

from vmmcore.errors import UserError, VmmError

from . import addresses as at
from . import cpus, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmm_acpi.machine import Blob
    from vmmcore.front.planning import PlanContext

PCI_SLOTS = 32
#: parts of ``plan["platform"]`` that are a page of registers
PAGES = ("ged", "cpu_hotplug", "memory_hotplug", "pci_hotplug")


def finish(context: PlanContext, entry: dict[str, Any] | None) -> None:
    """Fill ``plan["platform"]`` and ``plan["entry"]``, load all that the guest finds in memory.

    Raises UserError: no kernel, a command line too long, unknown CPU features.
    """
    if entry is None:
        raise UserError("--kernel", "nothing to boot", "give --kernel FILE")
    if entry["protocol"] not in ("arm64", "firmware"):
        raise VmmError(f"boot protocol {entry['protocol']!r} is unknown to AArch64")
    config, layout, plan = context.config, context.layout, context.plan
    levels = cpus.topology(config.cpus.max, config.cpus.topology)
    features = cpus.features(config.cpus.features)
    if not layout.extra["pmu"]:
        features &= ~cpus.PMU
    redist = at.GIC_DIST - at.GIC_REDIST_SIZE * config.cpus.max
    platform: dict[str, Any] = {
        "phys_bits": layout.extra["phys_bits"],
        "features": features,
        "mpidrs": [cpus.mpidr(n) for n in range(config.cpus.max)],
        "topology": levels,
        "gic": {
            "dist": at.GIC_DIST,
            "redist": [redist, at.GIC_REDIST_SIZE * config.cpus.max],
            "its": redist - at.GIC_ITS_SIZE,
        },
    }
    plan["platform"] = platform
    gic = platform["gic"]
    context.mmio(gic["its"], at.GIC_DIST + at.GIC_DIST_SIZE - gic["its"], "arch-aarch64")
    context.mmio(at.PORTS, at.PORTS_SIZE, "arch-aarch64")

    if entry["protocol"] == "firmware":
        _firmware_tables(context, platform)
    elif layout.hotplug and config.memory.hotplug_method == "acpi":
        raise UserError("--memory hotplug_method=", "a kernel without firmware finds no ACPI on AArch64",
                        "use hotplug_method=virtio-mem, or --firmware")
    stdout = [d["resources"]["fdt_stdout"] for d in plan["devices"] if d["resources"].get("fdt_stdout")]
    root = tree.machine(
        ram=layout.ram,
        cmdline=command_line(context.cmdline),
        initramfs=entry.get("initramfs"),
        mpidrs=platform["mpidrs"][: config.cpus.boot],
        topology=levels,
        gic=gic,
        segments=layout.segments,
        pci_gsis=layout.pci_gsis,
        phandles=layout.extra["phandles"],
        pmu=bool(features & cpus.PMU),
        stdout=stdout[0] if stdout else None,
        more=[node for nodes in context.hooks.vmm_fdt_nodes(context=context) for node in nodes],
    )
    if config.numa:
        tree.add_nodes(root, segments=layout.segments, **numa_nodes(context))
    data = tree.blob(root)
    platform["seeds"] = [[at.FDT + data.index(seed), len(seed)] for seed in (tree.KASLR_SEED, tree.RNG_SEED)]
    context.load_bytes(at.FDT, data)
    plan["entry"] = {"pc": entry["pc"], "x0": at.FDT}


def numa_nodes(context: PlanContext) -> dict[str, Any]:
    """Nodes, memory zones and distances of ``--numa``, for tables and tree."""
    from vmmcore.front import zones

    planned = context.plan["memory"]["zones"]
    return {
        "nodes": zones.nodes(context.config),
        "zones": {zone["id"]: zone["regions"] for zone in planned},
        "distances": zones.distances(context.config),
    }


def command_line(text: str) -> str:
    """`text`, if the kernel takes all of it. Raises UserError."""
    length = len(text.encode("utf-8", "surrogateescape"))
    if length >= at.CMDLINE_MAX:
        raise UserError("--cmdline", f"{length} bytes; the kernel takes {at.CMDLINE_MAX - 1}", "shorten it")
    return text


def _firmware_tables(context: PlanContext, platform: dict[str, Any]) -> None:
    """ACPI tables: for fw_cfg if it is there, else in memory."""
    platform["ged"] = {"address": at.GED, "gsi": context.gsi(at.GED_GSI)}
    platform["pci_hotplug"] = {"address": at.PCI_HOTPLUG}
    config = context.config
    if config.cpus.max > config.cpus.boot:
        platform["cpu_hotplug"] = {"address": at.CPU_HOTPLUG, "fixed": config.cpus.boot}
    if context.layout.hotplug and config.memory.hotplug_method == "acpi":
        from vmm_acpi import memory_hotplug

        platform["memory_hotplug"] = {"address": at.MEMORY_HOTPLUG, "slots": memory_hotplug.SLOTS}
    for address in _registers(platform):
        context.mmio(address, 4096, "arch-aarch64")
    tables = acpi(context, platform)
    if context.device_plan("fw-cfg"):
        context.layout.extra["acpi"] = tables
    else:
        context.load_bytes(tables.address, tables.data)


def acpi(context: PlanContext, platform: dict[str, Any]) -> Blob:
    """All ACPI tables, placed at 0x40200000."""
    from vmm_acpi.machine import build_arm

    layout, config, gic = context.layout, context.config, platform["gic"]
    pmu: dict[str, Any] = {"pmu_ppi": at.PMU_PPI} if platform["features"] & cpus.PMU else {}
    prt = {slot: layout.pci_gsis[slot % len(layout.pci_gsis)] for slot in range(PCI_SLOTS)}
    spec: dict[str, Any] = {
        "address": at.ACPI,
        "max_size": at.ACPI_SIZE,
        "cpus": [
            {"mpidr": mpidr, "enabled": n < config.cpus.boot, **pmu} for n, mpidr in enumerate(platform["mpidrs"])
        ],
        "topology": platform["topology"],
        "gic": {"dist": gic["dist"], "redist": tuple(gic["redist"]), "its": gic["its"]},
        "segments": [
            {
                "id": segment["id"],
                "ecam": segment["ecam"],
                "mmio32": tuple(segment["mmio32"]),
                "mmio64": tuple(segment["mmio64"]),
                "pio": (at.PORTS, at.PORTS_SIZE) if segment["pio"][1] else None,
                "prt": prt,
            }
            for segment in layout.segments
        ],
        "ged": platform["ged"],
        "pci_hotplug": platform["pci_hotplug"]["address"],
        "preserve_boot_config": True,
        "serial": _places(context, "serial"),
        "reserved": [(address, 4096) for address in _registers(platform)],
        "extra": [node for nodes in context.hooks.vmm_acpi_nodes(context=context) for node in nodes],
    }
    if "cpu_hotplug" in platform:
        spec["cpu_hotplug"] = platform["cpu_hotplug"]
    if "memory_hotplug" in platform:
        from vmm_acpi import memory_hotplug as hotplug

        spec["extra"].append(hotplug.controller(platform["memory_hotplug"]["address"], hotplug.SLOTS))
        spec["scan"] = {"memory": hotplug.SCAN}
    if config.numa:
        from vmm_acpi import numa

        numa.describe(spec, hotplug=layout.hotplug, **numa_nodes(context))
        # EDK2 lists its flash as memory, and Linux gives up all nodes if any memory is in none.
        for flash in context.device_plan("flash"):
            base, size = flash["resources"]["vars"]
            spec["memory"].append({"base": base, "size": size, "node": spec["cpus"][0]["node"]})
    if gpio := _places(context, "gpio"):
        spec["gpio"] = gpio[0]
    return build_arm(spec)  # type: ignore[arg-type]


def _registers(platform: dict[str, Any]) -> list[int]:
    """Pages of registers that the tables speak of."""
    return [platform[part]["address"] for part in PAGES if part in platform]


def _places(context: PlanContext, key: str) -> list[dict[str, int]]:
    """Where the devices of a type have their registers and interrupts."""
    return [
        {"address": device["resources"]["address"], "gsi": device["resources"]["gsi"]}
        for device in context.device_plan(key)
        if "address" in device["resources"]
    ]
