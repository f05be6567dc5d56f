# SPDX-License-Identifier: Apache-2.0
"""Builds the C half with a made-up core, under ASan and UBSan, and runs it; also on this host's KVM."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest
from vmmcore import get_include

HERE = pathlib.Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    if not shutil.which("gcc"):
        pytest.skip("gcc is missing: apt install gcc")
    program = tmp_path_factory.mktemp("native") / "harness"
    sources = [HERE / "native_harness.c", *sorted(NATIVE.glob("*.c"))]
    flags = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined",
             "-fno-sanitize-recover=undefined", f"-I{NATIVE}", f"-I{get_include()}"]
    subprocess.run(["gcc", *flags, *sources, "-o", program, "-lpthread"], check=True)
    return program


@pytest.mark.parametrize("part", ["platform", "kvm"])
def test_native(harness: pathlib.Path, part: str) -> None:
    run = subprocess.run([harness, part], capture_output=True, text=True, timeout=120, check=False)
    output = run.stdout + run.stderr
    if output.startswith("skip"):
        pytest.skip(output.strip())
    assert run.returncode == 0, output
    assert f"ok {part}" in output
