# SPDX-License-Identifier: Apache-2.0
"""The front's half of the serial port: its options, and what the plan says about it."""

from __future__ import annotations

from vmmcore.front.chardev import SocketStreamOptions, plan_serial_port
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)

#: COM1 of every PC: I/O ports and interrupt line
COM1_PORT, COM1_PORTS, COM1_GSI = 0x3F8, 8, 4


def plan(context: PlanContext, options: SocketStreamOptions, device: dict[str, Any]) -> bool:
    """Open the host side; claim COM1. False for ``--serial off``."""
    if options.mode == "off":
        return False
    context.ports(COM1_PORT, COM1_PORTS, "serial")
    device["resources"] = {"port": COM1_PORT, "gsi": context.gsi(COM1_GSI)}
    plan_serial_port(context, options, device)
    return True


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("serial", "vmm_serial.device:Serial", options=SocketStreamOptions, plan=plan, bus="platform",
                       many=False, doc="serial port COM1 (16550A)")]


@hookimpl
def vmm_cmdline_words(context: PlanContext) -> Sequence[str]:
    return ["console=ttyS0"] if context.device_plan("serial") else []
