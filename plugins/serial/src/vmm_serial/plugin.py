# SPDX-License-Identifier: Apache-2.0
"""The front's half of the serial port: its options, and what the plan says about it."""

from __future__ import annotations

from vmmcore.errors import UserError
from vmmcore.front.options import Option, Options, Path
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)

#: COM1 of every PC: I/O ports and interrupt line
COM1_PORT, COM1_PORTS, COM1_GSI = 0x3F8, 8, 4


class SerialOptions(Options):
    """Where the bytes go: ``tty``, ``null``, ``off``, ``pty`` or ``file=PATH``."""

    positional = "mode"
    mode = Option(str, None, "tty: standard input and output; pty: a new pseudo-terminal; null: nowhere; "
                  "off: no serial port", choices=("tty", "null", "off", "pty"))
    file = Option(Path, None, "write what the guest sends to this file; it gets no input")
    socket = Option(Path, None, "not available yet")

    def validate(self, option: str) -> None:
        if self.socket is not None:
            raise UserError(f"{option} socket=", "a socket is not supported yet",
                            f"use {option} pty or {option} file=PATH")
        if self.mode is not None and self.file is not None:
            raise UserError(f"{option} file=", f"cannot be combined with {self.mode}", "keep one of them")
        if self.mode is None and self.file is None:
            raise UserError(option, "it is not said where the bytes go", "use tty, pty, null or file=PATH")


def plan(context: PlanContext, options: SerialOptions, device: dict[str, Any]) -> bool:
    """Open the host side; claim COM1. False for ``--serial off``."""
    if options.mode == "off":
        return False
    context.ports(COM1_PORT, COM1_PORTS, "serial")
    device["resources"] = {"port": COM1_PORT, "gsi": context.gsi(COM1_GSI)}
    files: dict[str, int] = {}
    if options.mode == "tty":
        files = {"in": context.open_stdio(0), "out": context.open_stdio(1)}
    elif options.mode == "pty":
        pty = context.open_pty("--serial pty")
        files = {"in": pty, "out": pty}
    elif options.file is not None:
        files = {"out": context.open_file(options.file, "--serial file=", "w")}
    device["files"] = files
    device["options"] = {"host": options.mode or "file"}
    return True


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("serial", "vmm_serial.device:Serial", options=SerialOptions, plan=plan, bus="platform",
                       many=False, doc="serial port COM1 (16550A)")]


@hookimpl
def vmm_cmdline_words(context: PlanContext) -> Sequence[str]:
    return ["console=ttyS0"] if context.device_plan("serial") else []
