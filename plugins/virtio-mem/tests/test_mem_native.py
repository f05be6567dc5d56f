# SPDX-License-Identifier: Apache-2.0
"""The data plane against a core made of a few arrays, under the sanitizers (native/test_mem.c)."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmm_testkit.planes import SANITIZERS, build_plane, run_plane

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_data_plane(tmp_path: Path, sanitizer: str) -> None:
    sources = [HERE / "native" / "test_mem.c", NATIVE / "mem.c"]
    run_plane(build_plane(tmp_path, sources, sanitizer=sanitizer, include=[NATIVE]))
