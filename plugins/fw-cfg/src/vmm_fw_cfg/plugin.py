# SPDX-License-Identifier: Apache-2.0
"""The front's half of fw_cfg: the user's files, and what firmware is to find."""

from __future__ import annotations

import os
import stat

from vmmcore.errors import UserError
from vmmcore.front.options import Option, Options, Path
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext
    from vmmcore.hooks import Property

API = (1, 0)

KEY = "fw-cfg"
FLAG = f"--{KEY}"
#: registers of the variant for Arm: address, and bytes that belong to it
ADDRESS, ROOM = 0x0903_0000, 0x1000
#: ports of the variant for PCs
PORT, PORTS = 0x510, 12
MAX_NAME = 55
#: bytes of an item: of one on the command line, and of a file
MAX_STRING, MAX_FILE = 64 << 10, (1 << 32) - 1


class FwCfgOptions(Options):
    """``--fw-cfg name=opt/org.example/key,string=TEXT`` or ``…,file=PATH``; without options: just the device."""

    positional = "name"
    name = Option(str, None, "name of the item, at most 55 characters; by convention opt/DOMAIN/…")
    string = Option(str, None, "what is in it")
    file = Option(Path, None, "the file that is in it")

    def validate(self, option: str) -> None:
        if self.name is None:
            if self.string is not None or self.file is not None:
                raise UserError(f"{option} name=", "missing", "say what the item is called")
            return
        if (self.string is None) == (self.file is None):
            raise UserError(option, f"item {self.name} needs string= or file=", "give one of them")
        if not 0 < len(self.name) <= MAX_NAME or not self.name.isascii() or not self.name.isprintable():
            raise UserError(f"{option} name=", f"'{self.name}' cannot be an item's name",
                            f"use up to {MAX_NAME} ASCII characters")
        if self.string is not None and len(self.string.encode()) > MAX_STRING:
            raise UserError(f"{option} string=", "is too long", "put it into a file and give file=")


def add_item(context: PlanContext, device: dict[str, Any], *, name: str | None = None, key: int | None = None,
             data: bytes = b"", path: str | None = None, option: str = FLAG) -> int:
    """One item more for a planned fw_cfg device, a file `name` or number `key`: `data`, or what is in the file `path`.

    Returns its bytes. Raises UserError: a name that is there already, a file that cannot be one (`option` named it).
    """
    items = device["options"]["items"]
    item: dict[str, Any] = {"key": key} if name is None else {"name": name}
    if any(item.items() <= other.items() for other in items):
        raise UserError(f"{FLAG} name=", f"there are two items {name or key}", "leave one out")
    size = len(data)
    if path is None:
        item["data"] = data
    else:
        index = context.open_file(path, option)
        status = os.fstat(context.fd(index))
        size = status.st_size
        if not stat.S_ISREG(status.st_mode) or not 0 < size <= MAX_FILE:
            raise UserError(option, f"{path} is not a regular file of 1 to {MAX_FILE} bytes", "give another file")
        item |= {"file": f"item{len(items)}", "size": size}
        device["files"][item["file"]] = index
    items.append(item)
    return size


def plan(context: PlanContext, options: FwCfgOptions, device: dict[str, Any]) -> bool:
    """The device, when first asked for; then one item more for it."""
    planned = context.device_plan(KEY)
    target = planned[0] if planned else device
    if not planned:
        device["options"] = {"items": []}
        if context.arch.name == "x86_64":
            context.ports(PORT, PORTS, KEY)
            device["resources"] = {"port": PORT}
        else:
            context.mmio(ADDRESS, ROOM, KEY)
            device["resources"] = {"address": ADDRESS}
    if options.name is not None:
        add_item(context, target, name=options.name, data=(options.string or "").encode(), path=options.file,
                 option=f"{FLAG} file=")
    return not planned


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType(KEY, "vmm_fw_cfg.device:FwCfg", options=FwCfgOptions, plan=plan, bus="platform",
                       doc="items that firmware or the guest reads (fw_cfg)")]


@hookimpl
def vmm_fdt_nodes(context: PlanContext) -> Sequence[tuple[str, dict[str, Property]]]:
    """The kernel's binding ``firmware/qemu,fw-cfg-mmio``; EDK2 looks for the same node."""
    return [(f"fw-cfg@{device['resources']['address']:x}", {
        "compatible": "qemu,fw-cfg-mmio", "reg": [0, device["resources"]["address"], 0, 0x18], "dma-coherent": True})
        for device in context.device_plan(KEY) if "address" in device["resources"]]


@hookimpl
def vmm_plan_ready(context: PlanContext) -> None:
    """What firmware is handed: tables of the architecture, and a kernel to start."""
    devices = context.device_plan(KEY)
    if devices and context.config.firmware is not None:
        from . import firmware

        firmware.add(context, devices[0])
