# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_virtio_balloon._native`` (run by setuptools through ``cffi_modules``)."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

try:
    from vmmcore import get_include
except ImportError:  # built inside the source tree, before the core is installed

    def get_include() -> str:
        return str(Path(__file__).resolve().parents[3] / "vmmcore" / "include")


ffibuilder = FFI()
ffibuilder.cdef("""
struct balloon;
struct balloon *balloon_new(const void *api, void *vm, const char *id, int *error);
int balloon_start(struct balloon *b, void *inflate, void *deflate, void *stats, void *const reports[], unsigned n);
void balloon_stop(struct balloon *b);
void balloon_ask(struct balloon *b);
void balloon_stats(struct balloon *b, uint64_t out[16]);
void balloon_free(struct balloon *b);
""")
ffibuilder.set_source(
    "vmm_virtio_balloon._native",
    '#include "balloon.h"\n',
    sources=["native/balloon.c"],
    depends=["native/balloon.h", f"{get_include()}/vmmcore.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
