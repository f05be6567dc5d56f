# SPDX-License-Identifier: Apache-2.0
"""`--rng`: what it accepts, and what it says when it cannot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from vmm_testkit.guest import default_vmm


def vmm_run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*default_vmm(), "--kernel", __file__, "--serial", "null", *args], check=False, capture_output=True,
                          text=True, timeout=60)


@pytest.mark.parametrize(("text", "words"), [
    ("src=", "--rng src=: .*empty"), ("/missing/file", "--rng src=: /missing/file: .*check the path"),
    ("/tmp", "--rng src=: .*directory"), ("source=/dev/random", "--rng: unknown key 'source'; did you mean src"),
    ("bw_size=1K", "--rng bw_refill_time=: missing"), ("bw_size=-1,bw_refill_time=1", "--rng bw_size="),
    ("ops_size=x,ops_refill_time=1", "--rng ops_size="), ("packed=maybe", "--rng packed=: .*on nor off"),
])
def test_bad_option_is_one_line_that_names_it(text: str, words: str, tmp_path: Path) -> None:
    import re

    done = vmm_run("--rng", text)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert re.search(words, done.stderr), done.stderr


def test_empty_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = vmm_run("--rng", f"src={tmp_path}/empty")
    assert done.returncode == 2 and "the file is empty" in done.stderr
    assert os.listdir(tmp_path) == ["empty"]


def test_there_is_one() -> None:
    done = vmm_run("--rng", "--rng", "src=/dev/random")
    assert done.returncode == 2 and "--rng: given more than once" in done.stderr
