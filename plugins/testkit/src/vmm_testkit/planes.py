# SPDX-License-Identifier: Apache-2.0
"""Data planes in C, tested by a C program under the sanitizers, with a core made of a few arrays (``fakes/``).

::

    @pytest.mark.parametrize("sanitizer", SANITIZERS)
    def test_data_plane(tmp_path, sanitizer):
        run_plane(tmp_path, [HERE / "native/test_foo.c", NATIVE / "foo.c"], sanitizer=sanitizer, include=[NATIVE])

The program prints ``ok`` and ends with 0. It may include ``vmmcore.h`` and ``fake_core.h``: virtqueues,
loops and guest memory behind a ``struct vmm_api``.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import vmmcore

FAKES = Path(__file__).parent / "fakes"
SANITIZERS = ("address,undefined", "thread")
FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-fno-sanitize-recover=all", "-pthread")


def run_plane(
    folder: Path,
    sources: Sequence[Path],
    *,
    sanitizer: str,
    include: Sequence[Path] = (),
    libraries: Sequence[str] = (),
    timeout: float = 120.0,
) -> None:
    """Build `sources` into `folder` and run the program. Fails with what the compiler or the sanitizer said.

    Skips, with the mend, where there is no compiler or where the kernel's address layout stops the thread sanitizer.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler; apt install gcc")
    program = folder / "plane"
    folders = [f"-I{path}" for path in (*include, FAKES, Path(vmmcore.get_include()))]
    command = [compiler, *FLAGS, f"-fsanitize={sanitizer}", *folders, *map(str, sources), "-o", str(program)]
    build = subprocess.run([*command, *libraries], check=False, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    run = subprocess.run([str(program)], check=False, capture_output=True, text=True, timeout=timeout)
    if "unexpected memory mapping" in run.stderr:
        pytest.skip(
            "this kernel's address space randomisation breaks the thread sanitizer; sysctl vm.mmap_rnd_bits=28"
        )
    assert (run.returncode, run.stdout) == (0, "ok\n"), run.stderr
