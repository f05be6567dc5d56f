# SPDX-License-Identifier: Apache-2.0
"""The tox environments that `make test` runs side by side, as one comma-separated word."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def plugins() -> list[str]:
    """The names of the plugins in this repository."""
    return sorted(p.parent.name for p in ROOT.glob("plugins/*/pyproject.toml"))


def examples() -> list[str]:
    """The names of the example packages: third parties' plugins, tested as such."""
    return sorted(p.parent.name for p in ROOT.glob("examples/*/pyproject.toml"))


if __name__ == "__main__":
    packages = [*(f"plugin-{name}" for name in plugins()), *(f"example-{name}" for name in examples())]
    print(",".join(["core", "fuzz-short", "native", *packages, "lint", "types"]))
