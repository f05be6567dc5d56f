# SPDX-License-Identifier: Apache-2.0
"""mypy --strict on the core and on each plugin's and example's package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    sources = sorted([*ROOT.glob("plugins/*/src/*"), *ROOT.glob("examples/*/src/*")])
    targets = ["vmmcore", *(str(p) for p in sources if (p / "__init__.py").exists())]
    return subprocess.run([sys.executable, "-m", "mypy", "--strict", *targets], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
