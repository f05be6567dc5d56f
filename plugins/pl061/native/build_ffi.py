# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_pl061._native`` (run by setuptools through ``cffi_modules``)."""

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
struct pl061_state { uint8_t in, out, edges, dir, is, ibe, iev, ie, afsel; };
struct pl061;
struct pl061 *pl061_new(const void *api, void *vm, uint64_t address, uint32_t gsi, int *error);
void pl061_free(struct pl061 *p);
void pl061_press(struct pl061 *p);
void pl061_reset(struct pl061 *p);
void pl061_pause(struct pl061 *p, int paused);
void pl061_save(struct pl061 *p, struct pl061_state *state);
int pl061_restore(struct pl061 *p, const struct pl061_state *state);
""")
ffibuilder.set_source(
    "vmm_pl061._native",
    '#include "pl061.h"\n',
    sources=["native/pl061.c"],
    depends=["native/pl061.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
