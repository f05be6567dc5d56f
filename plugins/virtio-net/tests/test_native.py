# SPDX-License-Identifier: Apache-2.0
"""The data plane in C against a core made of arrays, under the sanitizers (native/test_net.c)."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmm_testkit.planes import SANITIZERS, build_plane, run_plane

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_data_plane(tmp_path: Path, sanitizer: str) -> None:
    sources = [HERE / "native" / "test_net.c", HERE / "native" / "fake_core.c"]
    sources += [NATIVE / f"{name}.c" for name in ("net", "rx", "tx", "vhost")]
    run_plane(build_plane(tmp_path, sources, sanitizer=sanitizer, include=[NATIVE], flags=["-D_GNU_SOURCE"]))
