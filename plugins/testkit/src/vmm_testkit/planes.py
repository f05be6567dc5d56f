# SPDX-License-Identifier: Apache-2.0
"""Data planes in C, tested by a C program under the sanitizers, with a core made of a few arrays (``fakes/``).

::

    @pytest.mark.parametrize("sanitizer", SANITIZERS)
    def test_data_plane(tmp_path, sanitizer):
        sources = [HERE / "native/test_foo.c", NATIVE / "foo.c"]
        run_plane(build_plane(tmp_path, sources, sanitizer=sanitizer, include=[NATIVE]))

The program prints ``ok`` and ends with 0. It may include ``vmmcore.h`` and ``fake_core.h``: virtqueues,
loops and guest memory behind a ``struct vmm_api``.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import vmmcore

FAKES = Path(__file__).parent / "fakes"
SANITIZERS = ("address,undefined", "thread")
FLAGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-fno-sanitize-recover=all", "-pthread")
#: what a program says on stderr where the host cannot run it → why, and the mend
SKIPS = {
    "unexpected memory mapping":
        "this kernel's address space randomisation breaks the thread sanitizer; sysctl vm.mmap_rnd_bits=28",
}


def build_plane(
    folder: Path,
    sources: Sequence[Path],
    *,
    sanitizer: str,
    include: Sequence[Path] = (),
    flags: Sequence[str] = (),
    libraries: Sequence[str] = (),
) -> Path:
    """Build `sources` into `folder`; the program. `flags` come after :data:`FLAGS` and so override them.

    Fails with what the compiler said. Skips, with the mend, where there is none.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler; apt install gcc")
    program = folder / "plane"
    folders = [f"-I{path}" for path in (*include, FAKES, Path(vmmcore.get_include()))]
    command = [compiler, *FLAGS, *flags, f"-fsanitize={sanitizer}", *folders, *map(str, sources), "-o", str(program)]
    build = subprocess.run([*command, *libraries], check=False, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    return program


def run_plane(
    program: Path, *arguments: str | Path, skips: Mapping[str, str] | None = None, timeout: float = 120.0
) -> None:
    """Run what :func:`build_plane` built. Fails with what a check or the sanitizer said.

    Skips where the program's stderr has one of the texts in :data:`SKIPS` or `skips`, for the reason given there.
    """
    run = subprocess.run([str(program), *map(str, arguments)], check=False, capture_output=True, text=True,
                         timeout=timeout)
    for text, reason in (SKIPS | dict(skips or {})).items():
        if run.returncode and text in run.stderr:
            pytest.skip(reason)
    assert (run.returncode, run.stdout) == (0, "ok\n"), run.stderr
