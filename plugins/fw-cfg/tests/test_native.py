# SPDX-License-Identifier: Apache-2.0
"""The C device against a core of a few lines, under the sanitizers (native/test_fw_cfg.c)."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmm_testkit.planes import SANITIZERS, build_plane, run_plane

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_fw_cfg_device(tmp_path: Path, sanitizer: str) -> None:
    sources = [HERE / "native" / "test_fw_cfg.c", NATIVE / "fw_cfg.c"]
    run_plane(build_plane(tmp_path, sources, sanitizer=sanitizer, include=[NATIVE]))
