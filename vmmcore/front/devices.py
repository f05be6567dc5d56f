# SPDX-License-Identifier: Apache-2.0
"""Planning devices: from what was asked for to entries of ``plan["devices"]``, and their PCI slots."""

from __future__ import annotations

import os
import sys

from ..errors import PluginError, UserError, VmmError
from .config import DeviceConfig, VmConfig, check_id, unknown_config_key
from .options import Option, Options, split_or_fail, unknown_key, unquote
from .plugins import Plugin, Plugins, cause, is_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..hooks import DeviceType
    from .context import FrontContext, PlanContext


#: type of a DeviceConfig that holds an argument of ``--plugin``, in its place among the devices
PLUGIN = "--plugin"


class DeviceOptions(Options):
    """What every device takes beside its own options."""

    id: Option[str | None] = Option(str, None, "unique name of the device")


class PciOptions(DeviceOptions):
    """What every PCI device takes beside its own options."""

    pci_segment = Option(int, 0, "PCI segment", min=0, max=255)
    slot: Option[int | None] = Option(int, None, "PCI slot (default: the next free one)", min=1, max=31)


def plugin_argument(text: str) -> tuple[str, str]:
    """NAME and options of a ``--plugin NAME,options``."""
    name, _, options = text.partition(",")
    return name.strip(), options


def plan_device(context: PlanContext, plugins: Plugins, wanted: DeviceConfig) -> None:
    """Plan the device that `wanted` describes (for a plugin's argument: none, one or several)."""
    if wanted.type == PLUGIN:
        assert isinstance(wanted.options, str)
        name, text = plugin_argument(wanted.options)
        plugin = plugins.load_named(name)
        if plugin.device_class is not None:
            _plan_class(
                context,
                plugin.device_class,
                DeviceConfig(plugin.name, text, origin=f"--plugin {name}"),
                plugin.name,
                plugin.file,
            )
            return
        if not plugin.device_types or (not text and _has_flag(plugins, plugin)):
            if text:
                raise UserError(
                    f"--plugin {name}", f"'{text}': this plugin has no device types", "leave the options out"
                )
            return
        if len(plugin.device_types) > 1 and text:
            keys = ", ".join(f"--{kind.key}" for kind in plugin.device_types)
            raise UserError(f"--plugin {name}", "this plugin has several device types", f"use {keys}")
        for kind in plugin.device_types:
            _plan_type(context, plugin, kind, DeviceConfig(kind.key, text, origin=f"--plugin {name}"))
        return
    if isinstance(wanted.type, type):
        _plan_class(context, wanted.type, wanted, wanted.type.__name__.lower(), None)
        return
    if ": " in wanted.origin and not _known_key(plugins, wanted.type):
        origin = wanted.origin.rpartition(": ")[0]
        raise unknown_config_key(
            origin,
            wanted.type,
            [*VmConfig.SCALARS, *VmConfig.PARTS, *plugins.discovery.group("vmmcore.flags")],
        )
    _plan_type(context, *plugins.device_type(wanted.type, wanted.origin), wanted)


def _has_flag(plugins: Plugins, plugin: Plugin) -> bool:
    """Whether the plugin's devices are asked for with flags; then --plugin alone only activates it."""
    flags = plugins.discovery.group("vmmcore.flags")
    return plugin.file is None and any(kind.key in flags for kind in plugin.device_types)


def _known_key(plugins: Plugins, key: str) -> bool:
    return key in plugins.discovery.group("vmmcore.flags") or any(
        kind.key == key for plugin in plugins.loaded for kind in plugin.device_types
    )


def plan_front(plugins: Plugins, wanted: list[DeviceConfig]) -> FrontContext:
    """Plan flags of the front itself (``DeviceType(bus="front")``) for all VMs of this front.

    Raises VmmError. Hold the result as long as the front lives, and release() it then.
    """
    from .context import FrontContext

    context = FrontContext(plugins)
    for flag in wanted:
        assert isinstance(flag.type, str)
        _plan_front(context, *plugins.device_type(flag.type, flag.origin), flag)
    return context


def _plan_front(context: FrontContext, plugin: Plugin, kind: DeviceType, wanted: DeviceConfig) -> None:
    declared = kind.options or _None
    given = wanted.options or {}
    values = declared.pairs(given, wanted.origin) if isinstance(given, str) else dict(given)
    options = declared.from_dict(values, wanted.origin)
    plan: Any = kind.plan
    if plan is not None:
        _guard_plan(plugin, f"--{kind.key}", lambda: plan(context, options, {}))


def _guard_plan(plugin: Plugin, what: str, plan: Callable[[], Any]) -> Any:
    """plan()'s result; an exception that it does not mean to raise becomes a PluginError."""
    try:
        return plan()
    except VmmError:
        raise
    except Exception as error:
        raise PluginError(f"plugin {plugin.name} failed to plan {what}: {cause(error)}") from error


def _plan_type(context: PlanContext, plugin: Plugin, kind: DeviceType, wanted: DeviceConfig) -> None:
    if kind.bus == "front":
        _plan_front(context, plugin, kind, wanted)
        return
    if not kind.many and context.device_plan(kind.key):
        raise UserError(wanted.origin, "given more than once", "one is the most")
    common, own = _split_options(wanted, kind.options, kind.bus)
    device = _new_device(context, wanted, kind.key, kind.bus, common)
    module, _, name = kind.factory.rpartition(":")
    if plugin.file is not None and module in ("", plugin.module.__name__, plugin.name):
        device["file"], device["class"] = plugin.file, name
        _use_user_path(context)
    else:
        device["module"], device["class"] = module, name
    device["options"] = own.to_dict() if own is not None else {}
    plan = kind.plan
    if plan is not None and _guard_plan(plugin, device["id"], lambda: plan(context, own, device)) is False:
        return
    context.plan["devices"].append(device)


def _plan_class(context: PlanContext, cls: type, wanted: DeviceConfig, key: str, file: str | None) -> None:
    """A device class without a device type: of a plain file, or of the caller's own code."""
    from ..device import Device, PciDevice

    if not issubclass(cls, Device):
        raise UserError(
            wanted.origin, f"{cls.__name__} is no vmmcore.Device", "derive it from Device or PciDevice"
        )
    if file is None:
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if file is None or "." in cls.__qualname__:
            raise UserError(
                wanted.origin,
                f"the runner cannot import {cls.__qualname__} of {cls.__module__}",
                "define the class at the top level of a file",
            )
    bus = "pci" if issubclass(cls, PciDevice) else "platform"
    options: type[Options] | None = getattr(cls, "OPTIONS", None)
    common, own = _split_options(wanted, options, bus, free=options is None)
    device = _new_device(context, wanted, key, bus, common)
    device["class"] = cls.__name__
    if (is_file(file) and cls.__module__ in ("__main__", "__mp_main__")) or cls.__module__.startswith(
        "vmm_file_"
    ):
        device["file"] = os.path.abspath(file)
    else:
        device["module"] = cls.__module__
    device["options"] = own if isinstance(own, dict) else own.to_dict() if own is not None else {}
    _use_user_path(context)
    context.plan["devices"].append(device)


def _use_user_path(context: PlanContext) -> None:
    """Code of the caller's own may import what the caller could."""
    context.plan["user_path"] = [os.path.abspath(path) for path in sys.path if path != ""] + (
        [os.getcwd()] if "" in sys.path else []
    )


def _split_options(
    wanted: DeviceConfig, options: type[Options] | None, bus: str, free: bool = False
) -> tuple[DeviceOptions, Any]:
    """The common options and the type's own ones (a dict if `free`)."""
    common_class = PciOptions if bus == "pci" else DeviceOptions
    declared = options or _None
    common_keys = tuple(key for key in common_class._options if key not in declared._options)
    given = wanted.options or {}
    values: dict[str, Any]
    if not isinstance(given, str):
        values = dict(given)
    elif free:
        values = {}
        for part in split_or_fail(given, wanted.origin):
            key, equals, value = part.partition("=")
            values[key] = unquote(value) if equals else "on"
    else:
        values = declared.pairs(given, wanted.origin, common_keys)
    if not free:
        for key in values:
            if key.replace("-", "_") not in declared._options and key not in common_keys:
                raise unknown_key(wanted.origin, str(key), [*declared._options, *common_keys])
    common = common_class.from_dict(
        {key: values.pop(key) for key in common_keys if key in values}, wanted.origin
    )
    if free:
        return common, values
    return common, options.from_dict(values, wanted.origin) if options is not None else None


class _None(Options):
    """The options of a device that has none."""


def _new_device(
    context: PlanContext, wanted: DeviceConfig, key: str, bus: str, common: DeviceOptions
) -> dict[str, Any]:
    taken = {device["id"] for device in context.plan["devices"]}
    name = wanted.id or common.id
    if name is None:
        number = 0
        while f"{key}{number}" in taken:
            number += 1
        name = f"{key}{number}"
    check_id(name, f"{wanted.origin} id=")
    if name in taken:
        raise UserError(
            f"{wanted.origin} id=", f"'{name}' is already the id of another device", "choose another"
        )
    device: dict[str, Any] = {
        "id": name,
        "type": key,
        "class": "",
        "bus": bus,
        "options": {},
        "resources": {},
        "files": {},
    }
    if isinstance(common, PciOptions):
        device["segment"] = common.pci_segment
        device["slot"] = common.slot if common.slot is not None else 0
    return device


def assign_slots(context: PlanContext) -> None:
    """PCI slots: those asked for, then the next free one in the order of devices; 0 is the host bridge."""
    segments = {segment["id"] for segment in context.layout.segments}
    taken: dict[tuple[int, int], str] = {}
    devices = [device for device in context.plan["devices"] if device["bus"] == "pci"]
    for device in devices:
        where = f"--{device['type']}"
        if device["segment"] not in segments:
            raise UserError(
                f"{where} pci_segment=",
                f"there is no PCI segment {device['segment']}",
                f"the last is {max(segments)}" if segments else "this machine has no PCI",
            )
        place = device["segment"], device["slot"]
        if device["slot"] and taken.setdefault(place, device["id"]) != device["id"]:
            raise UserError(
                f"{where} slot=", f"slot {device['slot']} is taken by {taken[place]}", "choose another"
            )
    for device in devices:
        if not device["slot"]:
            free = [slot for slot in range(1, 32) if (device["segment"], slot) not in taken]
            if not free:
                raise UserError(
                    f"--{device['type']}",
                    f"PCI segment {device['segment']} has no free slot",
                    "31 devices are the most; use pci_segment=",
                )
            device["slot"] = free[0]
            taken[device["segment"], free[0]] = device["id"]
