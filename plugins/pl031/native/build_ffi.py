# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_pl031._native`` (run by setuptools through ``cffi_modules``)."""

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
struct pl031_state { uint32_t offset, mr, lr, imsc, ris; int64_t match_at; };
struct pl031;
struct pl031 *pl031_new(const void *api, void *vm, uint64_t address, uint32_t gsi, int *error);
void pl031_free(struct pl031 *p);
void pl031_reset(struct pl031 *p);
void pl031_pause(struct pl031 *p, int paused);
void pl031_save(struct pl031 *p, struct pl031_state *state);
int pl031_restore(struct pl031 *p, const struct pl031_state *state);
""")
ffibuilder.set_source(
    "vmm_pl031._native",
    '#include "pl031.h"\n',
    sources=["native/pl031.c"],
    depends=["native/pl031.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
