# SPDX-License-Identifier: Apache-2.0
"""Options of devices that talk to a byte stream of the host: serial ports, consoles, debug ports.

    --serial tty | null | off | pty | file=PATH | socket=PATH

The device half hands the fds to the core's ``chardev_open`` (vmmcore.h).
"""

from __future__ import annotations

from ..errors import UserError
from .options import Option, Options, Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .planning import PlanContext


class StreamOptions(Options):
    """Where the bytes go: ``tty``, ``null``, ``off``, ``pty`` or ``file=PATH``."""

    positional = "mode"
    mode = Option(str, None, "tty: standard input and output; pty: a new pseudo-terminal; null: nowhere; "
                  "off: no such device", choices=("tty", "null", "off", "pty"))
    file = Option(Path, None, "write what the guest sends to this file; it gets no input")

    def validate(self, option: str) -> None:
        super().validate(option)
        given = [key for key in ("file", "socket") if self._values.get(key) is not None]
        if self.mode is not None and given:
            raise UserError(f"{option} {given[0]}=", f"cannot be combined with {self.mode}", "keep one of them")
        if len(given) > 1:
            raise UserError(f"{option} socket=", "cannot be combined with file=", "keep one of them")
        if self.mode is None and not given:
            known = " or ".join(f"{key}=PATH" for key in ("file", "socket") if key in self._options)
            raise UserError(option, "it is not said where the bytes go", f"use tty, pty, null, {known}")

    @property
    def kind(self) -> str:
        """``tty``, ``null``, ``off``, ``pty``, ``file`` or ``socket``."""
        return self.mode or ("file" if self.file is not None else "socket")


class SocketStreamOptions(StreamOptions):
    """``socket=PATH`` as well, for devices with input."""

    socket = Option(Path, None, "a new Unix socket; whoever connects is at the other end")


def open_stream(context: PlanContext, options: StreamOptions, flag: str, *, input: bool = True) -> dict[str, int]:
    """Open the host's side: the plan's ``files`` of the device, ``in`` (unless `input` is false) and ``out``.

    For ``socket=``: ``listen``, a listening socket. Raises UserError naming `flag` (``--serial``).
    """
    files: dict[str, int] = {}
    if options.mode == "tty":
        if input:
            _check_input(context, flag)
            files["in"] = context.open_stdio(0)
        files["out"] = context.open_stdio(1)
    elif options.mode == "pty":
        pty = context.open_pty(f"{flag} pty")
        files = {"in": pty, "out": pty} if input else {"out": pty}
    elif options.file is not None:
        files = {"out": context.open_file(options.file, f"{flag} file=", "w")}
    elif isinstance(options, SocketStreamOptions) and options.socket is not None:
        files = {"listen": context.open_socket(options.socket, f"{flag} socket=")}
    return files


def plan_serial_port(context: PlanContext, options: SocketStreamOptions, device: dict[str, Any]) -> None:
    """What :class:`vmmcore.cdevice.SerialPort` needs but its place: ``files`` and ``options``. Raises UserError."""
    device["files"] = open_stream(context, options, "--serial")
    nodes = [context.plan["files"][index].get("node") for kind, index in device["files"].items() if kind == "listen"]
    device["options"] = {"host": options.kind, "sockets": [node for node in nodes if node]}


def _check_input(context: PlanContext, flag: str) -> None:
    """Standard input has one reader, or each would get some of the keys."""
    entry = {"stdio": 0}
    if entry not in context.plan["files"]:
        return
    index = context.plan["files"].index(entry)
    owners = [device["type"] for device in context.plan["devices"] if index in device["files"].values()]
    raise UserError(f"{flag} tty", f"{f'--{owners[0]}' if owners else 'another port'} has this terminal already",
                    "use pty, file= or null for one of them")
