# SPDX-License-Identifier: Apache-2.0
"""The data plane in C against a core made of arrays, under the sanitizers (native/test_net.c)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"


def include() -> Path:
    """The directory of vmmcore.h."""
    tree = HERE.parents[2] / "vmmcore" / "include"
    if tree.is_dir():
        return tree
    import vmmcore

    return Path(vmmcore.get_include())


def test_data_plane(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler; apt install gcc")
    program = tmp_path / "test_net"
    sources = [HERE / "native" / "test_net.c", HERE / "native" / "fake_core.c",
               *(NATIVE / f"{name}.c" for name in ("net", "rx", "tx", "vhost"))]
    build = subprocess.run([compiler, "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g", "-O1",
                            "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{NATIVE}",
                            f"-I{include()}", *map(str, sources), "-o", str(program)],
                           check=False, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    run = subprocess.run([str(program)], check=False, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, "ok\n"), run.stderr
