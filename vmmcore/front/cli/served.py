# SPDX-License-Identifier: Apache-2.0
"""``vmm run --api-socket``: this process stays, and a plugin of the group ``vmmcore.api`` serves requests in it."""

from __future__ import annotations

import sys

from ...errors import PluginError, UserError
from ..config import VmConfig
from ..plugins import Plugins, cause
from .machine import config_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Serve = Callable[[str, VmConfig, Plugins], int]

FLAG = "--api-socket"
GROUP = "vmmcore.api"


def run_served(given: dict[str, Any], wanted: list[tuple[str, str]]) -> int:
    """Run the VM that the options describe, or wait for one to be created. The exit status. Raises VmmError."""
    from ..devices import plugin_argument
    from ..planning import plugins_for

    if given["plan"] is not None:
        raise UserError(FLAG, "cannot be combined with --plan", "create a machine from its own options")
    config = config_from(given, wanted)
    plugins = plugins_for(config)
    front = [device for device in config.devices if _is_front(plugins, device.type)]
    config.devices = [device for device in config.devices if device not in front]
    if config.kernel is None and config.firmware is None:
        _check_idle(given, [key for key, _ in wanted if key not in {device.type for device in front}])
        config.devices = []
        for text in config.plugins:
            plugins.load_named(plugin_argument(text)[0])
        config.plugins = [text for text in config.plugins if plugin_argument(text)[1]]  # the others make no device
    serve = _server(plugins)
    if not front:
        return serve(given["api_socket"], config, plugins)
    from ..devices import plan_front

    context = plan_front(plugins, front)
    try:
        return serve(given["api_socket"], config, plugins)
    finally:
        context.release()


def _is_front(plugins: Plugins, key: Any) -> bool:
    return isinstance(key, str) and plugins.offers(key) and plugins.device_type(key, f"--{key}")[1].bus == "front"


def _check_idle(given: dict[str, Any], devices: list[str]) -> None:
    """Raise UserError for options of a machine that nobody asked to boot."""
    machine = [f"--{key}" for key in ("initramfs", "cmdline", "cpus", "memory", "config") if given[key] is not None]
    machine += [f"--{key}" for key in devices if key != "plugin"]
    if machine:
        raise UserError(machine[0], "describes a machine that has nothing to boot",
                        "give --kernel FILE or --firmware FILE, or leave it to vm.create")


def _server(plugins: Plugins) -> Serve:
    """What serves the API; only now its plugin is imported. Raises PluginError."""
    entries = [entry for found in plugins.discovery.group(GROUP).values() for entry in found
               if plugins.usable(plugins.discovery.plugin_name(entry))]
    if len(entries) != 1:
        claims = " and ".join(entry.origin for entry in entries)
        raise PluginError(f"{FLAG}: claimed by both {claims}; uninstall one of them" if entries else
                          f"{FLAG}: no plugin that may be used serves it; pip install vmm-api-rest, and with "
                          "--no-default-plugins add --plugin api-rest")
    entry = entries[0]
    plugins.load_named(plugins.discovery.plugin_name(entry))
    try:
        __import__(entry.module)
        serve: Serve = getattr(sys.modules[entry.module], entry.attribute or "serve")
    except Exception as error:
        raise PluginError(f"{FLAG} ({entry.origin}) cannot be imported: {cause(error)}") from error
    return serve
