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
    """Finds exactly the top-level packages that the plan names, each in its own place."""

    def __init__(self, roots: dict[str, str]) -> None:
        from _frozen_importlib_external import PathFinder

        self.roots, self.find = roots, PathFinder.find_spec

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        root = self.roots.get(name.partition(".")[0])
        return None if root is None else self.find(name, [root] if path is None else path, target)


def main() -> None:
    plan = read_plan(int(sys.argv[1]))
    # Before PathFinder: an installed package of the same name elsewhere cannot take the place.
    sys.meta_path.insert(2, PlanFinder(plan["modules"]))
    from vmmcore.machine.runner import main as run

    run(plan, STARTED)


main()
