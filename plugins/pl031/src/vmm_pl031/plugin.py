# SPDX-License-Identifier: Apache-2.0
"""The front's half of the clock: one switch, and what the device tree says about it."""

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

#: guest-physical address and bytes of the registers, interrupt (SPI 8)
ADDRESS, SIZE, GSI = 0x0901_0000, 0x1000, 8


class RtcOptions(Options):
    """``--rtc on`` or ``--rtc off``."""

    positional = "enabled"
    enabled = Option(bool, True, "whether the clock is there")


def plan(context: PlanContext, options: RtcOptions, device: dict[str, Any]) -> bool:
    """Claim its place. False for ``--rtc off``."""
    device["options"] = {}
    if options.enabled:
        context.mmio(ADDRESS, SIZE, "pl031")
        device["resources"] = {"address": ADDRESS, "gsi": context.gsi(GSI)}
    return options.enabled


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("rtc", "vmm_pl031.device:Pl031", options=RtcOptions, plan=plan, bus="platform",
                       many=False, doc="real-time clock (Arm PrimeCell RTC, PL031)")]


@hookimpl
def vmm_fdt_nodes(context: PlanContext) -> Sequence[tuple[str, dict[str, Property]]]:
    """As the kernel's binding arm,pl031 has it."""
    return [(f"pl031@{ADDRESS:x}", {
        "compatible": ["arm,pl031", "arm,primecell"],
        "reg": [0, ADDRESS, 0, SIZE],
        "interrupts": [0, device["resources"]["gsi"], 4],  # SPI, level, high
        "clocks": context.layout.extra["phandles"]["clock"],
        "clock-names": "apb_pclk",
    }) for device in context.device_plan("rtc")]
