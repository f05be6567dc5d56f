# SPDX-License-Identifier: Apache-2.0
"""The tests with real Linux guests that packages have among their own: lab_suites.py PYTEST-ARGUMENTS.

One pytest session for each file, as files of different packages may have the same name.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: its tests start labs themselves, and run in its own environment
NOT = "plugins/testkit"


def files() -> list[Path]:
    found = [path for kind in ("plugins", "examples") for path in ROOT.glob(f"{kind}/*/tests/test_*.py")]
    return sorted(p for p in found if "linux_guest" in p.read_text() and not p.is_relative_to(ROOT / NOT))


def run(options: list[str]) -> int:
    """Run them with these arguments for pytest; 1 if any failed."""
    failed = []
    for path in files():
        name = str(path.relative_to(ROOT))
        print(f"{name}:", flush=True)
        config = str(path.parents[1] / "pyproject.toml")
        command = [sys.executable, "-P", "-m", "pytest", "-ra", *options, "-c", config, "-m", "linux_guest"]
        # 5: none of its tests is left, after -k for one
        if subprocess.run([*command, str(path)], cwd=ROOT).returncode not in (0, 5):
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
