# SPDX-License-Identifier: Apache-2.0
"""Which plugins are installed: a scan of ``entry_points.txt`` files along ``sys.path``.

``importlib.metadata`` does the same, and its import alone takes longer than all of this.
Nothing here imports a plugin; see :mod:`.plugins` for loading.
"""

from __future__ import annotations

import os
import sys

GROUPS = ("vmmcore", "vmmcore.flags", "vmmcore.arch", "vmmcore.boot", "vmmcore.api", "vmmcore.commands")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class EntryPoint:
    """One line of an ``entry_points.txt``: `name` = `module`[:`attribute`], of distribution `dist`."""

    __slots__ = ("attribute", "dist", "group", "metadata", "module", "name", "version")

    def __init__(self, group: str, name: str, value: str, dist: str, version: str, metadata: str) -> None:
        value = value.partition("[")[0]
        self.module, _, self.attribute = (part.strip() for part in value.partition(":"))
        self.group, self.name, self.dist, self.version, self.metadata = group, name, dist, version, metadata

    @property
    def origin(self) -> str:
        """The distribution and its version, for messages."""
        return f"{self.dist} {self.version}".rstrip()

    @property
    def default_plugin(self) -> str:
        """The plugin name that the distribution's name suggests (vmm-foo: foo)."""
        return self.dist[4:] if self.dist.startswith("vmm-") else self.dist

    def __repr__(self) -> str:
        return f"EntryPoint({self.group}: {self.name} = {self.module}, {self.origin})"


class Discovery:
    """The entry points of vmm's groups, read once. Directories as in `path` (default ``sys.path``).

    A flag or boot method ``NAME@MACHINE`` is NAME on that machine (`machine`, default: what ``uname -m`` prints), where
    it comes before a plain NAME; on other machines it is inert.
    """

    def __init__(
        self, path: Sequence[str] | None = None, disabled: str | None = None, machine: str | None = None
    ) -> None:
        self.machine = os.uname().machine if machine is None else machine
        self._path = sys.path if path is None else path
        disabled = os.environ.get("VMM_DISABLE_PLUGINS", "") if disabled is None else disabled
        self._disabled = [glob.strip() for glob in disabled.split(",") if glob.strip()]
        self._groups: dict[str, dict[str, list[EntryPoint]]] | None = None
        self._inert: list[EntryPoint] = []

    def group(self, name: str) -> dict[str, list[EntryPoint]]:
        """The entry points of a group by name, in order of names; more than one per name is a conflict."""
        if self._groups is None:
            self._groups = self._scan()
        return self._groups[name]

    def inert(self, entry: EntryPoint) -> bool:
        """Whether an entry means nothing on this machine: another's architecture, a flag that another one is."""
        if entry.group == "vmmcore.arch":
            return entry.name != self.machine
        return entry in self._inert

    def plugin_name(self, entry: EntryPoint) -> str:
        """The plugin that an entry of any group belongs to: the ``vmmcore`` entry of the same module."""
        for name, entries in self.group("vmmcore").items():
            if any(e.module == entry.module and e.dist == entry.dist for e in entries):
                return name
        return entry.default_plugin

    def names(self) -> list[str]:
        """Names of all installed plugins, sorted."""
        found = set(self.group("vmmcore"))
        for group in GROUPS[1:]:
            found.update(
                self.plugin_name(entry) for entries in self.group(group).values() for entry in entries
            )
        found.update(self.plugin_name(entry) for entry in self._inert)
        return sorted(found)

    def entries(self, plugin: str) -> list[EntryPoint]:
        """All entry points of one plugin, those that are inert here last."""
        entries = [e for group in GROUPS for entries in self.group(group).values() for e in entries]
        return [
            entry
            for entry in entries + self._inert
            if (entry.name == plugin if entry.group == "vmmcore" else self.plugin_name(entry) == plugin)
        ]

    def disabled(self, plugin: str) -> bool:
        """Whether ``VMM_DISABLE_PLUGINS`` (globs, comma separated) switches the plugin off."""
        if not self._disabled:
            return False
        from fnmatch import fnmatchcase

        return any(fnmatchcase(plugin, glob) for glob in self._disabled)

    def _scan(self) -> dict[str, dict[str, list[EntryPoint]]]:
        found: list[EntryPoint] = []
        seen: set[str] = set()
        for directory in dict.fromkeys(self._path):
            for folder in _metadata_folders(directory or "."):
                base = os.path.basename(folder).rpartition(".")[0]
                dist, _, version = base.partition("-")
                dist = dist.replace("_", "-").lower()
                try:
                    with open(folder + "/entry_points.txt", "rb") as file:
                        data = file.read(1 << 20)
                except OSError:
                    data = b""
                if dist in seen:  # the first on the path is the one that would be imported
                    continue
                seen.add(dist)
                if b"[vmmcore" in data:
                    found += _parse(data.decode(errors="replace"), dist, version or _version(folder), folder)
        found.sort(key=lambda entry: (entry.group, entry.name, entry.dist))
        groups: dict[str, dict[str, list[EntryPoint]]] = {group: {} for group in GROUPS}
        for entry in found:
            groups[entry.group].setdefault(entry.name, []).append(entry)
        for group in ("vmmcore.flags", "vmmcore.boot"):
            groups[group] = self._for_machine(groups[group])
        return groups

    def _for_machine(self, flags: dict[str, list[EntryPoint]]) -> dict[str, list[EntryPoint]]:
        """What each flag means on this machine; what means nothing goes to ``_inert``."""
        found = {name: entries for name, entries in flags.items() if "@" not in name}
        for name in flags.keys() - found.keys():
            key, _, machine = name.partition("@")
            if machine == self.machine:
                self._inert += found.get(key, [])
                found[key] = flags[name]
            else:
                self._inert += flags[name]
        return dict(sorted(found.items()))


def _metadata_folders(directory: str) -> Iterable[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info")))
    except OSError:
        return []


def _parse(text: str, dist: str, version: str, metadata: str) -> Iterable[EntryPoint]:
    group = ""
    for line in text.splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            group = line[1:-1].strip()
        elif group in GROUPS:
            name, equals, value = line.partition("=")
            if equals and name.strip() and value.strip():
                yield EntryPoint(group, name.strip(), value.strip(), dist, version, metadata)


def _version(folder: str) -> str:
    for name in ("METADATA", "PKG-INFO"):
        try:
            with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.startswith("Version:"):
                        return line[8:].strip()
        except OSError:
            continue
    return ""
