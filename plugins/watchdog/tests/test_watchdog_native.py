# SPDX-License-Identifier: Apache-2.0
"""The timer against a core made of a few arrays, under the sanitizers (native/test_watchdog.c)."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmm_testkit.planes import SANITIZERS, build_plane, run_plane

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_data_plane(tmp_path: Path, sanitizer: str) -> None:
    sources = [HERE / "native" / "test_watchdog.c", NATIVE / "watchdog.c", NATIVE / "esb.c"]
    run_plane(build_plane(tmp_path, sources, sanitizer=sanitizer, include=[NATIVE]))
