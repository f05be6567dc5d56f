# SPDX-License-Identifier: Apache-2.0
"""Build a wheel of each package into build/wheels, and constraints.txt, which pins each name to its file.

The test environments install from there, so that they test what a user would
install, and so that no package of the same name from an index can take its place.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build/wheels"


def build(folder: Path, *options: str) -> None:
    subprocess.run(["uv", "build", "-q", "--wheel", "--out-dir", str(OUT), *options, str(folder)], check=True)


def pins() -> str:
    """One line a wheel: NAME @ its file. The hash is for tox, which makes an environment anew when its lines change."""

    def line(wheel: Path) -> str:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        return f"{wheel.name.split('-')[0].replace('_', '-')} @ {wheel.as_uri()}#sha256={digest}\n"

    return "".join(line(wheel) for wheel in sorted(OUT.glob("*.whl")))


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    build(ROOT)  # first: plugins with C code compile against its header
    core = OUT / "core.txt"
    core.write_text(pins())
    projects = [*ROOT.glob("plugins/*/pyproject.toml"), *ROOT.glob("examples/*/pyproject.toml")]
    folders = sorted(p.parent for p in projects)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda folder: build(folder, "--build-constraint", str(core)), folders))
    (OUT / "constraints.txt").write_text(pins())
    sys.stdout.write(pins())


if __name__ == "__main__":
    main()
