# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_boot_linux._native`` (cffi API mode, stable ABI)."""

from __future__ import annotations

from pathlib import Path

import cffi

# setuptools runs this with the package's folder as the current directory and execs the
# text, so there may be no __file__; sources must be named relative to that folder.
HERE = Path("native")

ffibuilder = cffi.FFI()
header = (HERE / "image.h").read_text()
ffibuilder.cdef(header.split("/* cdef begin", 1)[1].split("*/", 1)[1].split("/* cdef end", 1)[0])
ffibuilder.set_source(
    "vmm_boot_linux._native",
    '#include "image.h"',
    include_dirs=["native"],
    sources=["native/image.c", "native/bzimage.c", "native/elf.c", "native/arm64.c"],
    depends=["native/image.h"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
    py_limited_api=True,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
