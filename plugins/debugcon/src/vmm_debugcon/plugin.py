# SPDX-License-Identifier: Apache-2.0
"""The front's half of the debug console: its options, and what the plan says about it."""

from __future__ import annotations

from vmmcore.front.chardev import StreamOptions, open_stream
from vmmcore.front.options import Option
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)

#: as wide as the debug exit port is (it is written with 1, 2 or 4 bytes)
EXIT_PORTS = 4


class DebugconOptions(StreamOptions):
    """Where the console's bytes go, and the ports."""

    iobase = Option(int, 0xE9, "I/O port of the console", min=1, max=0xFFFF)
    stamp_port = Option(int, 0x80, "I/O port for boot-time stamps; 0: none", min=0, max=0xFFFF)
    exit_port = Option(int, 0, "I/O port whose first write ends the VM (0 is success); 0: none",
                       min=0, max=0x10000 - EXIT_PORTS)


def plan(context: PlanContext, options: DebugconOptions, device: dict[str, Any]) -> bool:
    """Open the host side; claim the ports. False for ``--debugcon off``."""
    if options.mode == "off":
        return False
    context.ports(options.iobase, 1, "debugcon iobase")
    if options.stamp_port:
        context.ports(options.stamp_port, 1, "debugcon stamp_port")
    if options.exit_port:
        context.ports(options.exit_port, EXIT_PORTS, "debugcon exit_port")
    device["resources"] = {"console": options.iobase, "stamp": options.stamp_port, "exit": options.exit_port}
    device["files"] = open_stream(context, options, "--debugcon", input=False)
    device["options"] = {"drop": options.mode == "pty"}
    return True


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("debugcon", "vmm_debugcon.device:Debugcon", options=DebugconOptions, plan=plan,
                       bus="platform", many=False,
                       doc="debug console (port 0xe9), boot-time stamps (0x80), debug exit")]
