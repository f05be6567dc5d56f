# SPDX-License-Identifier: Apache-2.0
"""The front's half of the console: its options, and what the plan says about it."""

from __future__ import annotations

from vmmcore.errors import UserError
from vmmcore.front.chardev import SocketStreamOptions, open_stream
from vmmcore.front.options import Option
from vmmcore.front.virtio import VirtioOptions
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)

#: CONSOLE_MAX_PORTS of native/console.h, less the console itself
MAX_NAMED_PORTS = 31
#: bytes of a port's name
MAX_NAME = 63

#: a person is more likely at the later ones
_LIVELY = ("off", "null", "file", "socket", "pty", "tty")


class ConsoleOptions(VirtioOptions, SocketStreamOptions):
    """``--console tty``, ``--console pty,ports=[org.example.agent@socket=/run/agent,log@file=log.txt]``."""

    ports = Option(str, [], "named ports beside the console, NAME@ and pty, null, tty, file=PATH or socket=PATH each",
                   many=True, metavar="[NAME@WHERE,…]")
    legacy_size = Option(bool, False, "beside ports=: tell the terminal's size as Linux before 6.15 reads it")

    def validate(self, option: str) -> None:
        super().validate(option)
        if self.ports and self.mode == "off":
            raise UserError(f"{option} ports=", "there is no console to add ports to", "use null instead of off")
        if len(self.ports) > MAX_NAMED_PORTS:
            raise UserError(f"{option} ports=", f"{len(self.ports)} are too many", f"the most is {MAX_NAMED_PORTS}")
        names = [name for name, _ in self.named_ports(option)]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{option} ports=", f"the name '{name}' is given twice", "choose another")

    def named_ports(self, option: str) -> list[tuple[str, SocketStreamOptions]]:
        """Name and stream of each port. Raises UserError."""
        found = []
        for text in self.ports:
            name, at, where = text.partition("@")
            if not at:
                raise UserError(f"{option} ports=", f"'{text}' does not say where the bytes go",
                                f"write {name or 'NAME'}@pty, @file=PATH or @socket=PATH")
            if not name or len(name.encode()) > MAX_NAME or "/" in name or not name.isprintable():
                raise UserError(f"{option} ports=", f"'{name}' cannot be the name of a port",
                                f"use up to {MAX_NAME} characters without '/'")
            stream = SocketStreamOptions.parse(where, f"{option} ports={name}@")
            if stream.mode == "off":
                raise UserError(f"{option} ports={name}@", "a port cannot be off", "leave it out, or use null")
            found.append((name, stream))
        return found


def plan(context: PlanContext, options: ConsoleOptions, device: dict[str, Any]) -> bool:
    """Open the host side of all ports. False for ``--console off``."""
    if options.mode == "off":
        return False
    ports: list[dict[str, Any]] = []
    streams: list[tuple[str | None, SocketStreamOptions]] = [(None, options), *options.named_ports("--console")]
    device["options"] = {"packed": options.packed, "iommu": options.iommu, "legacy_size": options.legacy_size,
                         "ports": ports, "sockets": []}
    for number, (name, stream) in enumerate(streams):
        flag = "--console" if name is None else f"--console ports={name}@"
        files = open_stream(context, stream, flag)
        device["files"].update({f"{number}.{kind}": index for kind, index in files.items()})
        ports.append({"name": name, "host": stream.kind})
        if "listen" in files:
            device["options"]["sockets"].append(context.plan["files"][files["listen"]].get("node"))
    device["options"]["sockets"] = [node for node in device["options"]["sockets"] if node]
    return True


@hookimpl
def vmm_device_types() -> list[DeviceType]:
    return [DeviceType("console", "vmm_virtio_console.device:Console", options=ConsoleOptions, plan=plan,
                       many=False, doc="console (virtio-console), with named ports")]


@hookimpl(wrapper=True)
def vmm_cmdline_words(context: PlanContext) -> Generator[None, list[Any], list[Any]]:
    """``console=hvc0``. The last console= is the one that programs talk to: if there is a serial port as well,
    the livelier of the two, the console if they are alike."""
    parts = yield
    consoles = context.device_plan("console")
    host = consoles[0]["options"]["ports"][0]["host"] if consoles else "off"
    if host in ("off", "null"):
        return parts
    serial = max((_LIVELY.index(device["options"].get("host", "null")) for device in context.device_plan("serial")),
                 default=0)
    words = ["console=hvc0"]
    # pluggy's results are in reverse order: the first are the last words
    return [words, *parts] if _LIVELY.index(host) >= serial else [*parts, words]
