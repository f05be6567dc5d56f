# SPDX-License-Identifier: Apache-2.0
"""`--watchdog`: what it accepts, and what it says when it cannot."""

from __future__ import annotations

import re
import subprocess

import pytest
from vmm_testkit.guest import default_vmm


@pytest.mark.parametrize(("text", "words"), [
    ("maybe", "--watchdog enabled="), ("timeout=0", "--watchdog timeout="), ("model=ib700", "--watchdog model="),
    ("model=i6300esb,packed=on", "--watchdog packed=: only for model=virtio"),
    ("model=i6300esb,iommu=on", "--watchdog iommu=: only for model=virtio"),
    ("action=reset", "--watchdog: unknown key 'action'"),
])
def test_bad_option_is_one_line_that_names_it(text: str, words: str) -> None:
    done = subprocess.run([*default_vmm(), "--kernel", __file__, "--serial", "null", "--watchdog", text], check=False,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert re.search(words, done.stderr), done.stderr
