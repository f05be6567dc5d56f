# SPDX-License-Identifier: Apache-2.0
"""Builds the C half with a made-up core and KVM for Arm, under ASan and UBSan, and runs it, on any machine."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest
from vmmcore import get_include

HERE = pathlib.Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"
FLAGS = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}", f"-I{get_include()}"]


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    if not shutil.which("gcc"):
        pytest.skip("gcc is missing: apt install gcc")
    program = tmp_path_factory.mktemp("native") / "harness"
    sources = [HERE / "native_harness.c", *sorted(NATIVE.glob("*.c"))]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    subprocess.run(["gcc", *FLAGS, *sanitize, "-Wl,--wrap=ioctl", *sources, "-o", program], check=True)
    return program


@pytest.mark.parametrize("part", ["machine", "less", "unplugged", "clock", "refused"])
def test_native(harness: pathlib.Path, part: str) -> None:
    run = subprocess.run([harness, part], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"ok {part}" in run.stdout


def test_it_agrees_with_the_kernels_header_for_arm(tmp_path: pathlib.Path) -> None:
    gcc = shutil.which("aarch64-linux-gnu-gcc")
    if gcc is None:
        pytest.skip("no compiler for arm64: apt install gcc-aarch64-linux-gnu")
    for source in sorted(NATIVE.glob("*.c")):
        subprocess.run([gcc, *FLAGS, "-c", source, "-o", tmp_path / "out.o"], check=True)
