# SPDX-License-Identifier: Apache-2.0
"""``vmm ctl``: every call of the API from the command line, in the manner of Cloud Hypervisor's ch-remote."""

from __future__ import annotations

import json
import sys

import click
from vmmcore.errors import UserError, VmmError
from vmmcore.front.options import Size, split_or_fail, unquote

from . import tables
from .client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

HELP = {"help_option_names": ["-h", "--help"]}


class Session:
    """The client, and how to print."""

    def __init__(self, socket: str | None, as_json: bool) -> None:
        self._socket, self.as_json = socket, as_json

    @property
    def client(self) -> Client:
        if self._socket is None:
            raise UserError("--api-socket", "is missing", "name the socket that `vmm run --api-socket` was given")
        return Client(self._socket)

    def put(self, name: str, body: Any = None, fds: list[int] | None = None) -> int:
        """Make a call and print what it answers."""
        self.show(self.client.call("PUT", name, body, fds or ()), tables.plain)
        return 0

    def show(self, value: Any, table: Callable[[Any], str]) -> None:
        if value is not None:
            click.echo(json.dumps(value, indent=2) if self.as_json else table(value))


@click.group("ctl", context_settings=HELP)
@click.option("--api-socket", envvar="VMM_API_SOCKET", metavar="PATH", help="The API's Unix socket.")
@click.option("--json", "as_json", is_flag=True, help="Print the API's JSON.")
@click.pass_context
def command(ctx: click.Context, api_socket: str | None, as_json: bool) -> None:
    """Drive a running `vmm run --api-socket`."""
    ctx.obj = Session(api_socket, as_json)


def _simple(name: str, call: str, text: str) -> None:
    @command.command(name, help=text, short_help=text)
    @click.pass_obj
    def run(session: Session) -> int:
        return session.put(call)


for _name, _call, _text in (
    ("boot", "vm.boot", "Boot the created VM."),
    ("delete", "vm.delete", "End the VM and forget it."),
    ("nmi", "vm.nmi", "Send a non-maskable interrupt to every vCPU."),
    ("pause", "vm.pause", "Stop the vCPUs."),
    ("power-button", "vm.power-button", "Press the power button."),
    ("reboot", "vm.reboot", "Reset the VM."),
    ("resume", "vm.resume", "Let the vCPUs go on."),
    ("shutdown", "vm.shutdown", "End the VM; it can be booted again."),
    ("shutdown-vmm", "vmm.shutdown", "End the VM and the process that serves the API."),
):
    _simple(_name, _call, _text)


def _looking(name: str, call: str, text: str, table: Callable[[Any], str]) -> None:
    @command.command(name, help=text, short_help=text)
    @click.pass_obj
    def run(session: Session) -> int:
        session.show(session.client.call("GET", call), table)
        return 0


_looking("ping", "vmm.ping", "Who serves the API?", tables.ping)
_looking("info", "vm.info", "What the VM is and in which state.", tables.info)
_looking("counters", "vm.counters", "Counters of devices and vCPUs.", tables.counters)
_looking("openapi", "openapi.json", "The API's OpenAPI document.", lambda value: json.dumps(value, indent=2))


@command.command("metrics")
@click.pass_obj
def metrics(session: Session) -> int:
    """Metrics, as Prometheus reads them."""
    click.echo(session.client.call("GET", "metrics") or "", nl=False)
    return 0


@command.command("events")
@click.pass_obj
def events(session: Session) -> int:
    """Print events as they happen, one JSON object in a line."""
    rest = b""
    for part in session.client.stream("events"):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                click.echo(line.removeprefix(b"data: ").decode())
                sys.stdout.flush()
    return 0


@command.command("create")
@click.argument("path", default="-", metavar="[FILE]")
@click.pass_obj
def create(session: Session, path: str) -> int:
    """Create the VM from a VmConfig in JSON: a file, or - for standard input."""
    if path == "-":
        try:
            body = json.load(sys.stdin)
        except ValueError as error:
            raise UserError("create", f"standard input: {error}") from None
        return session.put("vm.create", body)
    try:
        with open(path, "rb") as file:
            body = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError("create", f"{path}: {error}") from None
    return session.put("vm.create", body)


def _size(text: str | None, option: str) -> int | None:
    try:
        return None if text is None else Size.parse(text)
    except ValueError as error:
        raise UserError(option, str(error)) from None


@command.command("resize")
@click.option("--cpus", type=int, metavar="N", help="vCPUs.")
@click.option("--memory", metavar="SIZE", help="Bytes of RAM (K, M, G, T).")
@click.option("--balloon", metavar="SIZE", help="Bytes in the balloon.")
@click.pass_obj
def resize(session: Session, cpus: int | None, memory: str | None, balloon: str | None) -> int:
    """Change the number of vCPUs, the memory, the balloon."""
    body = {"desired_vcpus": cpus, "desired_ram": _size(memory, "--memory"),
            "desired_balloon": _size(balloon, "--balloon")}  # fmt: skip
    if all(value is None for value in body.values()):
        raise UserError("resize", "nothing to change", "give --cpus, --memory or --balloon")
    return session.put("vm.resize", {key: value for key, value in body.items() if value is not None})


@command.command("resize-disk")
@click.option("--disk", required=True, metavar="ID", help="The disk.")
@click.option("--size", required=True, metavar="SIZE", help="Its new size.")
@click.pass_obj
def resize_disk(session: Session, disk: str, size: str) -> int:
    """Make a disk's image longer or shorter, and tell the guest."""
    return session.put("vm.resize-disk", {"id": disk, "desired_size": _size(size, "--size")})


@command.command("resize-zone")
@click.option("--id", "zone", required=True, metavar="ID", help="The memory zone.")
@click.option("--size", required=True, metavar="SIZE", help="Its new size.")
@click.pass_obj
def resize_zone(session: Session, zone: str, size: str) -> int:
    """Change the size of a memory zone."""
    return session.put("vm.resize-zone", {"id": zone, "desired_ram": _size(size, "--size")})


@command.command("remove-device")
@click.argument("id", metavar="ID")
@click.option("--force", is_flag=True, help="Do not ask the guest.")
@click.pass_obj
def remove_device(session: Session, id: str, force: bool) -> int:
    """Remove a device."""
    return session.put("vm.remove-device", {"id": id, **({"force": True} if force else {})})


@command.command("add")
@click.argument("type", metavar="TYPE")
@click.argument("options", default="", metavar="[OPTIONS]")
@click.pass_obj
def add(session: Session, type: str, options: str) -> int:
    """Add a device of any type, with the options of its flag: `vmm ctl add rng src=/dev/hwrng`."""
    return session.put(f"vm.add-device-type/{type}", *_device(type, options, f"add {type}"))


def _adding(name: str, key: str, text: str) -> None:
    @command.command(name, help=f"{text} OPTIONS are those of --{key}.", short_help=text)
    @click.argument("options", default="", metavar="OPTIONS")
    @click.pass_obj
    def run(session: Session, options: str) -> int:
        return session.put(f"vm.{name}", *_device(key, options, name))


for _name, _key, _text in (
    ("add-device", "device", "Add a VFIO device."),
    ("add-disk", "disk", "Add a disk."),
    ("add-fs", "fs", "Add a file system."),
    ("add-generic-vhost-user", "generic-vhost-user", "Add a vhost-user device of any type."),
    ("add-net", "net", "Add a network."),
    ("add-pmem", "pmem", "Add persistent memory."),
    ("add-user-device", "user-device", "Add a vfio-user device."),
    ("add-vdpa", "vdpa", "Add a vDPA device."),
    ("add-vsock", "vsock", "Add a vsock device."),
):
    _adding(_name, _key, _text)


def _device(key: str, text: str, origin: str) -> tuple[dict[str, Any], list[int]]:
    """The JSON that the flag's options stand for, and descriptors that go beside it. Raises UserError."""
    from .catalog import Catalog
    from .config import flag_values

    catalog = Catalog((), True)
    try:
        kind = catalog.kind(key, origin)
    except VmmError:  # the server may know more than we; if not, it says so
        return _loose(text, origin), []
    values = flag_values(text, kind, origin)
    fds = list(values.get("fd") or ()) if key == "net" else []
    body = catalog.form(kind).show(values)
    body.pop("fds", None)
    return body, fds


def _loose(text: str, origin: str) -> dict[str, Any]:
    """Options of a device type that is not installed here."""
    found: dict[str, Any] = {}
    for part in split_or_fail(text, origin):
        key, equals, value = part.partition("=")
        value = unquote(value)
        if not equals or value in ("on", "off", "true", "false"):
            found[key] = value not in ("off", "false")
        else:
            found[key] = int(value) if value.isascii() and value.isdecimal() else value
    return found


def _later(name: str, key: str, text: str) -> None:
    @command.command(name, help=text, short_help=text)
    @click.argument("where", metavar="URL")
    @click.pass_obj
    def run(session: Session, where: str) -> int:
        first, _, rest = where.partition(",")
        url = first.removeprefix(f"{key}=")
        return session.put(f"vm.{name}", {key: url, **_loose(rest, name)})


for _name, _key, _text in (
    ("snapshot", "destination_url", "Write the VM's state to files."),
    ("restore", "source_url", "Go on from a snapshot."),
    ("coredump", "destination_url", "Write the guest's memory for a debugger."),
    ("send-migration", "destination_url", "Hand the VM over."),
    ("receive-migration", "receiver_url", "Take over a VM."),
):
    _later(_name, _key, _text)
