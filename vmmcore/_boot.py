# SPDX-License-Identifier: Apache-2.0
"""The runner's first lines: read the plan, make importable what it names, hand over.

Run as ``python -I -S _boot.py FD``: no site-packages, no environment, no current
directory. `FD` is a memfd that holds the plan, marshalled by the front.
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STARTED = time.monotonic_ns()


def read_plan(fd: int) -> Any:
    import marshal
    import posix

    posix.lseek(fd, 0, 0)
    parts = []
    while part := posix.read(fd, 1 << 20):
        parts.append(part)
    posix.close(fd)
    return marshal.loads(b"".join(parts))


class PlanFinder:
    """Finds what is in the packages that the plan names, each in its own place, and nothing else.

    It looks for the three kinds of file that a package here has, by name: the general finder lists
    every directory and tries each as a zip archive, which is a third of the imports' time.
    """

    def __init__(self, roots: dict[str, str]) -> None:
        import _frozen_importlib_external as external
        import posix

        self.roots, self.external, self.stat = roots, external, posix.stat

    def exists(self, path: str) -> bool:
        try:
            self.stat(path)
        except OSError:
            return False
        return True

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        root = self.roots.get(name.partition(".")[0])
        if root is None:
            return None
        folder, tail = (path[0] if path else root), name.rpartition(".")[2]
        base, external = f"{folder}/{tail}", self.external
        if self.exists(base + "/__init__.py"):
            loader = external.SourceFileLoader(name, base + "/__init__.py")
            return external.spec_from_file_location(name, loader=loader, submodule_search_locations=[base])
        if self.exists(base + ".py"):
            return external.spec_from_file_location(name, loader=external.SourceFileLoader(name, base + ".py"))
        for suffix in external.EXTENSION_SUFFIXES:
            if self.exists(base + suffix):
                loader = external.ExtensionFileLoader(name, base + suffix)
                return external.spec_from_file_location(name, loader=loader)
        return None


def main() -> None:
    plan = read_plan(int(sys.argv[1]))
    # Before PathFinder: an installed package of the same name elsewhere cannot take the place.
    sys.meta_path.insert(2, PlanFinder(plan["modules"]))
    from vmmcore.machine.runner import main as run

    run(plan, STARTED)


main()
