# SPDX-License-Identifier: Apache-2.0
"""The front's half of the PL011: its options, and what plan and device tree say about it."""

from __future__ import annotations

from vmmcore.front.chardev import SocketStreamOptions, plan_serial_port
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext
    from vmmcore.hooks import Property

API = (1, 0)

#: guest-physical address and bytes of the registers, interrupt (SPI 11)
ADDRESS, SIZE, GSI = 0x0900_0000, 0x1000, 11
NODE = f"pl011@{ADDRESS:x}"


def plan(context: PlanContext, options: SocketStreamOptions, device: dict[str, Any]) -> bool:
    """Open the host side; claim the place. False for ``--serial off``."""
    if options.mode == "off":
        return False
    context.mmio(ADDRESS, SIZE, "pl011")
    device["resources"] = {"address": ADDRESS, "gsi": context.gsi(GSI), "fdt_stdout": f"/{NODE}"}
    plan_serial_port(context, options, device)
    return True


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("serial", "vmm_pl011.device:Pl011", options=SocketStreamOptions, plan=plan, bus="platform",
                       many=False, doc="serial port (Arm PrimeCell UART, PL011)")]


@hookimpl
def vmm_cmdline_words(context: PlanContext) -> Sequence[str]:
    return ["console=ttyAMA0"] if context.device_plan("serial") else []


@hookimpl
def vmm_fdt_nodes(context: PlanContext) -> Sequence[tuple[str, dict[str, Property]]]:
    """As the kernel's binding arm,pl011 has it."""
    clock = context.layout.extra["phandles"]["clock"]
    return [(NODE, {
        "compatible": ["arm,pl011", "arm,primecell"],
        "reg": [0, device["resources"]["address"], 0, SIZE],
        "interrupts": [0, device["resources"]["gsi"], 4],  # SPI, level, high
        "clocks": [clock, clock],
        "clock-names": ["uartclk", "apb_pclk"],
    }) for device in context.device_plan("serial")]
