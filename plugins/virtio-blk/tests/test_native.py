# SPDX-License-Identifier: Apache-2.0
"""The C data plane against a core made of a few arrays, and the token bucket, under the sanitizers."""

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


def build(folder: Path, name: str, sources: list[Path], sanitizer: str) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler; apt install gcc")
    program = folder / name
    result = subprocess.run(
        [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", f"-fsanitize={sanitizer}",
         "-fno-sanitize-recover=all", f"-I{NATIVE}", f"-I{HERE / 'native'}", f"-I{include()}",
         *map(str, sources), "-o", str(program), "-pthread"],
        check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return program


@pytest.mark.parametrize("backend", ["uring", "pool"])
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_data_plane(tmp_path: Path, sanitizer: str, backend: str) -> None:
    sources = [HERE / "native" / "test_blk.c", HERE / "native" / "fake_core.c", *sorted(NATIVE.glob("[!f]*.c"))]
    sources = [source for source in sources if source.name != "vmm_virtio_blk._native.c"]
    program = build(tmp_path, "test_blk", sources, sanitizer)
    run = subprocess.run([str(program), backend, str(tmp_path)], check=False, capture_output=True, text=True,
                         timeout=300, env={"TSAN_OPTIONS": "halt_on_error=1"})
    if "unexpected memory mapping" in run.stderr:
        pytest.skip("this kernel's address space randomisation breaks the thread sanitizer; "
                    "sysctl vm.mmap_rnd_bits=28")
    if "blk_uring(blk)" in run.stderr and backend == "uring":
        pytest.skip("this host forbids io_uring; sysctl kernel.io_uring_disabled=0")
    assert (run.returncode, run.stdout.splitlines()[-1:]) == (0, ["ok"]), run.stderr


def test_token_bucket(tmp_path: Path) -> None:
    program = build(tmp_path, "test_bucket", [HERE / "native" / "test_bucket.c"], "address,undefined")
    run = subprocess.run([str(program)], check=False, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "ok\n"), run.stderr
