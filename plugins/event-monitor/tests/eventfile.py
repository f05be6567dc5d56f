# SPDX-License-Identifier: Apache-2.0
"""What the tests share: reading a stream, and a guest that runs on and on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vmm_testkit.baremetal import BareMetal

VMM = str(Path(sys.executable).parent / "vmm")
FOREVER = BareMetal('#include "guest.h"\nint main(struct hvm_start_info *si) { (void)si; for (;;) pause(); }')


def names(text: str) -> list[str]:
    """Source and event of all that was written; each must be whole."""
    return [f"{one['source']} {one['event']}" for one in map(json.loads, text.strip().split("\n\n"))]


def names_in(path: Path) -> list[str]:
    """The same of a file."""
    return names(path.read_text())
