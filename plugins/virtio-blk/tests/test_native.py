# SPDX-License-Identifier: Apache-2.0
"""The C data plane against a core made of a few arrays, and the token bucket, under the sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmm_testkit.planes import SANITIZERS, build_plane, run_plane

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"
FLAGS = ["-std=gnu11"]


@pytest.mark.parametrize("backend", ["uring", "pool"])
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_data_plane(tmp_path: Path, sanitizer: str, backend: str) -> None:
    sources = [HERE / "native" / "test_blk.c", HERE / "native" / "fake_core.c"]
    sources += [NATIVE / f"{name}.c" for name in ("blk", "disk", "pool", "request", "uring")]
    program = build_plane(tmp_path, sources, sanitizer=sanitizer, include=[NATIVE], flags=FLAGS)
    skips = {"blk_uring(blk)": "this host forbids io_uring; sysctl kernel.io_uring_disabled=0"}
    run_plane(program, backend, tmp_path, skips=skips if backend == "uring" else {}, timeout=300)


def test_token_bucket(tmp_path: Path) -> None:
    run_plane(build_plane(tmp_path, [HERE / "native" / "test_bucket.c"], sanitizer=SANITIZERS[0], flags=FLAGS))
