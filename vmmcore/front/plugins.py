# SPDX-License-Identifier: Apache-2.0
"""Loading plugins: on demand, in a fixed order, each on its own.

A plugin that was asked for by name and cannot be loaded is an error; one that was only
found is left out, with one line on stderr.
"""

from __future__ import annotations

import os
import sys

from ..errors import PluginError, UserError, VmmError, origin
from ..hooks import API_VERSION, PROJECT
from .discovery import Discovery, EntryPoint
from .options import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Any

    import pluggy

    from ..device import Device
    from ..hooks import Arch, DeviceType


class Plugin:
    """A loaded plugin. `file` is its path when it is a file of the user's; `origin` is for messages."""

    __slots__ = ("device_class", "device_types", "file", "module", "name", "origin")

    def __init__(self, name: str, module: ModuleType, origin: str, file: str | None) -> None:
        self.name, self.module, self.origin, self.file = name, module, origin, file
        self.device_types: list[DeviceType] = []
        self.device_class: type[Device] | None = None


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


class Plugins:
    """The plugins that one configuration may use. No global state: make one per configuration.

    named            what ``--plugin`` names (without options)
    default_plugins  False: nothing else is usable
    warn             told, in one line each, which found plugins were left out
    """

    def __init__(
        self,
        named: Iterable[str] = (),
        *,
        default_plugins: bool = True,
        discovery: Discovery | None = None,
        warn: Callable[[str], None] = _warn,
    ) -> None:
        self.discovery = discovery or Discovery()
        self.default_plugins = default_plugins
        self.named = list(dict.fromkeys(named))
        self._warn = warn
        self._loaded: dict[str, Plugin] = {}  # by module name or path
        self._failed: set[str] = set()
        self._manager: pluggy.PluginManager | None = None
        self._types: dict[str, tuple[Plugin, DeviceType]] = {}

    @property
    def manager(self) -> pluggy.PluginManager:
        """pluggy's manager, with the specifications of :mod:`vmmcore.hooks`."""
        if self._manager is None:
            import pluggy

            from .. import hooks

            self._manager = pluggy.PluginManager(PROJECT)
            self._manager.add_hookspecs(hooks)
        return self._manager

    @property
    def hooks(self) -> Any:
        """The hooks of all loaded plugins, to be called."""
        return self.manager.hook

    @property
    def loaded(self) -> list[Plugin]:
        return list(self._loaded.values())

    def usable(self, plugin: str) -> bool:
        """Whether the configuration lets this plugin be used."""
        return (self.default_plugins or plugin in self.named) and not self.discovery.disabled(plugin)

    @property
    def observes(self) -> bool:
        """Whether a loaded plugin implements ``vmm_vm_event``."""
        return bool(self.hooks.vmm_vm_event.get_hookimpls())

    # --- finding and loading -------------------------------------------------

    def load_named(self, name: str) -> Plugin:
        """Load what ``--plugin NAME`` (or ``./file.py``) names. Raises PluginError."""
        if is_file(name):
            return self._load_file(name)
        entries = self.discovery.group("vmmcore").get(name)
        if not entries:  # a plugin that only has entries in other groups
            entries = [e for e in self.discovery.entries(name) if e.group != "vmmcore.commands"][:1]
        if not entries:
            raise self._unknown(name)
        if self.discovery.disabled(name):
            raise PluginError(f"--plugin {name}: switched off by VMM_DISABLE_PLUGINS")
        return self._load(name, self._only("plugin", name, entries))

    def _unknown(self, name: str) -> PluginError:
        known = self.discovery.names()
        close = nearest(name, known)
        mend = f"did you mean {close}?" if close else f"installed: {', '.join(known) or 'none'}"
        return PluginError(f"--plugin {name}: no such plugin is installed; {mend}")

    def _only(self, what: str, name: str, entries: list[EntryPoint]) -> EntryPoint:
        if len(entries) > 1:
            claims = " and ".join(entry.origin for entry in entries)
            raise PluginError(f"{what} '{name}' is claimed by both {claims}; uninstall one of them")
        return entries[0]

    def _load(self, name: str, entry: EntryPoint) -> Plugin:
        loaded = self._loaded.get(entry.module)
        if loaded is not None:
            return loaded
        module = self._import(name, entry)
        return self._register(Plugin(name, module, entry.origin, None), entry.module)

    def _import(self, name: str, entry: EntryPoint) -> ModuleType:
        try:
            __import__(entry.module)
            return sys.modules[entry.module]
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:  # a plugin may even call sys.exit() when imported
            raise PluginError(f"plugin {name} ({entry.origin}) cannot be imported: {cause(error)}") from error

    def _load_file(self, path: str) -> Plugin:
        path = os.path.abspath(os.path.expanduser(path))
        if path in self._loaded:
            return self._loaded[path]
        if not os.path.isfile(path):
            raise PluginError(f"--plugin {path}: no such file; name a Python file or an installed plugin")
        import importlib.util

        stem = os.path.splitext(os.path.basename(path))[0]
        spec = importlib.util.spec_from_file_location("vmm_file_" + stem.replace("-", "_"), path)
        if spec is None or spec.loader is None:
            raise PluginError(f"--plugin {path}: not a Python file; its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module
        try:
            spec.loader.exec_module(module)
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:
            sys.modules.pop(module.__name__, None)
            raise PluginError(f"plugin {path} cannot be imported: {cause(error)}") from error
        plugin = Plugin(stem, module, path, path)
        if not any(hasattr(value, PROJECT + "_impl") for value in vars(module).values()):
            plugin.device_class = _only_device(module, path)
        return self._register(plugin, path)

    def _register(self, plugin: Plugin, key: str) -> Plugin:
        module = plugin.module
        api = getattr(module, "API", API_VERSION if plugin.device_class else None)
        where = f"plugin {plugin.name} ({plugin.origin})"
        ours = ".".join(map(str, API_VERSION))
        if not (isinstance(api, tuple) and len(api) == 2 and all(type(n) is int for n in api)):
            raise PluginError(f"{where}: {module.__name__} has no API = {API_VERSION}")
        if api[0] != API_VERSION[0] or api[1] > API_VERSION[1]:
            raise PluginError(
                f"{where} is written for API {api[0]}.{api[1]}, this is {ours}; "
                f"{'update vmmcore' if api > API_VERSION else 'update the plugin'}"
            )
        manager = self.manager
        try:
            for name in dir(module):
                options = manager.parse_hookimpl_opts(module, name)
                if (
                    options is not None
                    and not options["optionalhook"]
                    and not hasattr(manager.hook, options.get("specname") or name)
                ):
                    raise PluginError(f"{where}: there is no hook {options.get('specname') or name}")
            manager.register(module, plugin.name)
            others = [other for other in manager.get_plugins() if other is not module]
            for types in reversed(manager.subset_hook_caller("vmm_device_types", others)()):
                plugin.device_types += types
            for kind in plugin.device_types:
                if kind.key in self._types:
                    raise PluginError(
                        f"{where} and {self._types[kind.key][0].name} both provide "
                        f"the device type '{kind.key}'; use one of them"
                    )
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:
            if manager.is_registered(module):
                manager.unregister(module)
            if isinstance(error, PluginError):
                raise
            raise PluginError(f"{where} cannot be used: {cause(error)}") from error
        for kind in plugin.device_types:
            self._types[kind.key] = (plugin, kind)
        self._loaded[key] = plugin
        return plugin

    def _choose(self, what: str, name: str, entries: list[EntryPoint], origin: str) -> EntryPoint:
        """The entry that may be used, of those that claim `name`. Raises PluginError, UserError."""
        usable = [entry for entry in entries if self.usable(self.discovery.plugin_name(entry))]
        if usable:
            return self._only(what, name, usable)
        names = [self.discovery.plugin_name(entry) for entry in entries]
        plugin = next((name for name in names if not self.discovery.disabled(name)), names[0])
        raise UserError(
            origin,
            f"the plugin {plugin} may not be used",
            "VMM_DISABLE_PLUGINS switches it off"
            if self.discovery.disabled(plugin)
            else f"add --plugin {plugin} or leave out --no-default-plugins",
        )

    def _load_found(self, what: str, entries: list[EntryPoint]) -> Plugin | None:
        """Load a plugin that nobody named; None, with one line, when that fails."""
        entries = [entry for entry in entries if self.usable(self.discovery.plugin_name(entry))]
        if not entries:
            return None
        name = self.discovery.plugin_name(entries[0])
        try:
            return self._load(name, self._only(what, entries[0].name, entries))
        except PluginError as error:
            if name in self.named:
                raise
            if name not in self._failed:
                self._failed.add(name)
                self._warn(f"vmm: warning: {error} (ignored)")
            return None

    # --- what the planner asks ------------------------------------------------

    def device_type(self, key: str, origin: str) -> tuple[Plugin, DeviceType]:
        """Who makes devices of type `key`: a named plugin, or the one that declared the flag.

        Raises UserError (unknown type) or PluginError (its plugin cannot be used).
        """
        if key in self._types:
            return self._types[key]
        entries = self.discovery.group("vmmcore.flags").get(key)
        if entries:
            entry = self._choose("flag", "--" + key, entries, origin)
            name = self.discovery.plugin_name(entry)
            plugin = self._load(name, entry)
            if key not in self._types:
                raise PluginError(
                    f"plugin {name} ({plugin.origin}) declares the flag --{key} but no device type '{key}'"
                )
            return self._types[key]
        known = [*self._types, *self.discovery.group("vmmcore.flags")]
        close = nearest(key, known)
        raise UserError(
            origin,
            f"no plugin provides the device type '{key}'",
            f"did you mean {close}?" if close else "see `vmm plugins list`",
        )

    def offers(self, key: str) -> bool:
        """Whether a plugin that the configuration allows declares the flag `key`. Imports nothing."""
        entries = self.discovery.group("vmmcore.flags").get(key, ())
        return any(self.usable(self.discovery.plugin_name(entry)) for entry in entries)

    def arch(self, machine: str) -> Arch:
        """The architecture for this host's machine. Raises PluginError naming what is missing."""
        entries = self.discovery.group("vmmcore.arch").get(machine)
        if entries:
            entry = self._choose("architecture", machine, entries, f"{machine} host")
            self._load(self.discovery.plugin_name(entry), entry)
        found: Arch | None = self.hooks.vmm_arch(machine=machine)
        if found is None:
            raise PluginError(f"no plugin for {machine} hosts is installed; pip install vmm-arch-{machine}")
        return found

    def load_boot(self) -> list[str]:
        """Load every usable boot method; their plugins' names."""
        names = []
        unusable = []
        for entries in self.discovery.group("vmmcore.boot").values():
            plugin = self._load_found("boot method", entries)
            if plugin is not None:
                names.append(plugin.name)
            unusable += [
                name
                for entry in entries
                if not self.usable(name := self.discovery.plugin_name(entry))
                and not self.discovery.disabled(name)
            ]
        if not names and not self.hooks.vmm_boot_probe.get_hookimpls():
            unusable = sorted(set(unusable))
            raise PluginError(
                f"no boot method may be used; add --plugin {unusable[0]}"
                if unusable
                else "no boot method is installed; pip install vmm-boot-linux"
            )
        return names


def is_file(name: str) -> bool:
    """Whether a ``--plugin`` argument names a file."""
    return "/" in name or name.endswith(".py")


def cause(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, VmmError) and text:
        return text
    found = origin(error)
    where = f" ({os.path.basename(found[0])}:{found[1]})" if found and not found[0].startswith("<frozen") else ""
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def _only_device(module: ModuleType, path: str) -> type[Device]:
    """The one Device class that a plain file defines."""
    from ..device import Device

    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Device)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]
    if len(found) != 1:
        raise PluginError(
            f"plugin {path} has no hooks and defines {len(found) or 'no'} device classes; "
            "define one subclass of vmmcore.Device, or hooks"
        )
    return found[0]
