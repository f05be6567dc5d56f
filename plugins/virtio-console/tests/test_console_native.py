# SPDX-License-Identifier: Apache-2.0
"""The data plane against a core made of a few arrays, under the sanitizers (native/test_console.c)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"
SOURCES = [HERE / "native" / "test_console.c", HERE / "native" / "test_socket.c",
           *(NATIVE / name for name in ("console.c", "control.c", "stream.c"))]


def include() -> Path:
    """The directory of vmmcore.h."""
    tree = HERE.parents[2] / "vmmcore" / "include"
    if tree.is_dir():
        return tree
    import vmmcore

    return Path(vmmcore.get_include())


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_data_plane(tmp_path: Path, sanitizer: str) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler; apt install gcc")
    program = tmp_path / "test_console"
    build = subprocess.run([compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-O1",
                            f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", f"-I{NATIVE}", f"-I{include()}",
                            *map(str, SOURCES), "-o", str(program), "-pthread", "-lutil"],
                           check=False, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    run = subprocess.run([str(program)], check=False, capture_output=True, text=True, timeout=120)
    if "unexpected memory mapping" in run.stderr:
        pytest.skip("this kernel's address space randomisation breaks the thread sanitizer; "
                    "sysctl vm.mmap_rnd_bits=28")
    assert (run.returncode, run.stdout) == (0, "ok\n"), run.stderr
