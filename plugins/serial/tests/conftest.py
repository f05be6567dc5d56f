# SPDX-License-Identifier: Apache-2.0
"""The UART's state machine alone, called from Python: compiled from the same C file, no core, no KVM."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cffi import FFI
from uart_model import Uart

NATIVE = Path(__file__).resolve().parents[1] / "native"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler; apt install gcc")
    shared = tmp_path_factory.mktemp("uart") / "uart16550.so"
    subprocess.run([compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC",
                    str(NATIVE / "uart16550.c"), "-o", str(shared)], check=True)
    header = (NATIVE / "uart16550.h").read_text()
    header = re.sub(r"^#.*$", "", header, flags=re.MULTILINE).replace("UART_FIFO_SIZE", "16")
    header = re.sub(r"enum \{[^}]*\};", "", header)
    ffi = FFI()
    ffi.cdef(header)
    return ffi, ffi.dlopen(str(shared))


@pytest.fixture
def uart(library: tuple[Any, Any]) -> Uart:
    return Uart(*library)
