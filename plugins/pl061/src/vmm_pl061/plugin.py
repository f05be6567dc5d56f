# SPDX-License-Identifier: Apache-2.0
"""The front's half of the power button: one switch, and what the device tree says about it."""

from __future__ import annotations

from vmmcore.front.options import Option, Options
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext
    from vmmcore.hooks import Property

API = (1, 0)

#: guest-physical address and bytes of the registers, interrupt (SPI 9), and how the device tree names it
ADDRESS, SIZE, GSI, PHANDLE = 0x0902_0000, 0x1000, 9, 0x100
#: line of the power button; KEY_POWER of linux/input-event-codes.h
POWER_LINE, KEY_POWER = 3, 116


class GpioOptions(Options):
    """``--gpio on`` or ``--gpio off``."""

    positional = "enabled"
    enabled = Option(bool, True, "whether the lines, and the power button, are there")


def plan(context: PlanContext, options: GpioOptions, device: dict[str, Any]) -> bool:
    """Claim its place. False for ``--gpio off``."""
    device["options"] = {}
    if options.enabled:
        context.mmio(ADDRESS, SIZE, "pl061")
        device["resources"] = {"address": ADDRESS, "gsi": context.gsi(GSI)}
    return options.enabled


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("gpio", "vmm_pl061.device:Pl061", options=GpioOptions, plan=plan, bus="platform",
                       many=False, doc="power button (Arm PrimeCell GPIO, PL061)")]


@hookimpl
def vmm_fdt_nodes(context: PlanContext) -> Sequence[tuple[str, dict[str, Property]]]:
    """As the kernel's bindings pl061-gpio and gpio-keys have it."""
    nodes: list[tuple[str, dict[str, Property]]] = []
    for device in context.device_plan("gpio"):
        nodes.append((f"pl061@{ADDRESS:x}", {
            "compatible": ["arm,pl061", "arm,primecell"],
            "reg": [0, ADDRESS, 0, SIZE],
            "interrupts": [0, device["resources"]["gsi"], 4],  # SPI, level, high
            "clocks": context.layout.extra["phandles"]["clock"],
            "clock-names": "apb_pclk",
            "gpio-controller": True,
            "#gpio-cells": 2,
            "phandle": PHANDLE,
        }))
        nodes.append(("gpio-keys", {
            "compatible": "gpio-keys",
            "poweroff": {"label": "GPIO Key Poweroff", "linux,code": KEY_POWER, "gpios": [PHANDLE, POWER_LINE, 0]},
        }))
    return nodes
