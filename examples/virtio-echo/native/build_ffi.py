# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_virtio_echo._native`` (run by setuptools through ``cffi_modules``)."""

from __future__ import annotations

from cffi import FFI
from vmmcore import get_include

ffibuilder = FFI()
ffibuilder.cdef("""
void *echo_new(const void *api, void *vm, const char *id);
int echo_start(void *echo, void *queue);
void echo_free(void *echo);
""")
ffibuilder.set_source(
    "vmm_virtio_echo._native",
    '#include "echo.h"\n',
    sources=["native/echo.c"],
    depends=["native/echo.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
)
