# SPDX-License-Identifier: Apache-2.0
"""`--balloon`: what it accepts, and what it says when it cannot."""

from __future__ import annotations

import re
import subprocess

import pytest
from vmm_testkit.guest import default_vmm


def vmm_run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*default_vmm(), "--kernel", __file__, "--serial", "null", *args], check=False,
                          capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("text", "words"), [
    ("size=1G", "--balloon size=: 1073741824 bytes are more than the guest's 536870912; ask for less"),
    ("size=x", "--balloon size="), ("size=-1", "--balloon size="), ("deflate_on_oom=maybe", "--balloon deflate_on_oom="),
    ("deflate=on", "--balloon: unknown key 'deflate'; did you mean deflate_on_oom"),
])
def test_bad_option_is_one_line_that_names_it(text: str, words: str) -> None:
    done = vmm_run("--balloon", text)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert re.search(words, done.stderr), done.stderr


def test_there_is_one() -> None:
    done = vmm_run("--balloon", "1M", "--balloon", "2M")
    assert done.returncode == 2 and "--balloon: given more than once" in done.stderr
