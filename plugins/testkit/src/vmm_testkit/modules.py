# SPDX-License-Identifier: Apache-2.0
"""Kernel modules: which files a module needs, in the order in which insmod must see them."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import zlib
from collections.abc import Iterable
from pathlib import Path


class ModuleError(Exception):
    """A module is not there or cannot be unpacked; one line."""


def module_name(path: str) -> str:
    """``kernel/net/9p/9pnet-virtio.ko.xz`` -> ``9pnet_virtio``, as the kernel calls it."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


class ModuleTree:
    """The modules under ``…/lib/modules/<version>`` (read from modules.dep; see modules.dep(5))."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths: dict[str, str] = {}
        self._needs: dict[str, list[str]] = {}
        try:
            text = (root / "modules.dep").read_text()
        except OSError as error:
            raise ModuleError(f"{root}: modules.dep is missing ({error.strerror}); run depmod") from None
        for line in text.splitlines():
            path, _, needs = line.partition(":")
            name = module_name(path)
            self._paths[name] = path
            self._needs[name] = [module_name(need) for need in needs.split()]
        self._builtin = {module_name(line) for line in self._lines("modules.builtin")}
        self._soft: dict[str, list[str]] = {}
        for line in self._lines("modules.softdep"):
            words = line.split()
            if words[:1] == ["softdep"] and "pre:" in words:
                pre = words[words.index("pre:") + 1 :]
                end = pre.index("post:") if "post:" in pre else len(pre)
                self._soft.setdefault(module_name(words[1]), []).extend(
                    module_name(word) for word in pre[:end]
                )

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.root / name).read_text().splitlines()
        except OSError:
            return []

    def load_order(self, names: Iterable[str], *, optional: bool = False) -> list[str]:
        """Paths (relative to the root) of the modules and all that they need, needs first, each once.

        Built-in modules are left out.  An unknown one raises ModuleError, or is left out if ``optional``.
        """
        order: dict[str, None] = {}
        for name in names:
            key = module_name(name)
            if key in self._paths:
                self._add(key, order, set())
            elif key not in self._builtin and not optional:
                raise ModuleError(f"kernel {self.root.name} has no module {name!r}, nor is it built in")
        return list(order)

    def _add(self, name: str, order: dict[str, None], above: set[str]) -> None:
        if name in above or self._paths[name] in order:
            return
        for need in [*self._soft.get(name, ()), *self._needs[name]]:
            if need in self._paths:
                self._add(need, order, above | {name})
        order[self._paths[name]] = None


def read_module(path: Path) -> bytes:
    """The content of a ``.ko``, ``.ko.xz``, ``.ko.gz`` or ``.ko.zst`` file, unpacked."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return zlib.decompress(data, 31)
    if path.suffix == ".zst":
        if shutil.which("zstd") is None:
            raise ModuleError("zstd is missing: run `apt-get install zstd` as root")
        return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data
