# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmmcore._native``: all C files of this folder, with the declarations of ``cdef.h``."""

from __future__ import annotations

import glob
import os

from cffi import FFI

# setup.py is always run from the folder it is in; setuptools wants relative paths
HERE = "native"
INCLUDE = "vmmcore/include"
SOURCES = [
    path
    for path in sorted(glob.glob(f"{HERE}/*.c"))
    if not os.path.basename(path).startswith(("fuzz_", "test_"))
]
HEADERS = sorted([*glob.glob(f"{HERE}/*.h"), *glob.glob(f"{INCLUDE}/**/*.h", recursive=True)])
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden", "-pthread"]
# what cffi itself generates is not held to our warnings
GENERATED = [
    "-Wno-error=unused-parameter",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
]

ffi = FFI()
with open(f"{HERE}/cdef.h", encoding="utf-8") as file:
    ffi.cdef(file.read())
ffi.set_source(
    "vmmcore._native",
    '#include "virtio.h"',
    sources=SOURCES,
    depends=HEADERS,
    include_dirs=[HERE, INCLUDE],
    extra_compile_args=FLAGS + GENERATED,
    extra_link_args=["-pthread"],
)
