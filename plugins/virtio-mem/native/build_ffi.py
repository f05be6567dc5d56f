# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_virtio_mem._native`` (run by setuptools through ``cffi_modules``)."""

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
struct mem;
struct mem *mem_new(const void *api, void *vm, const char *id, uint64_t token, uint64_t addr, uint64_t size,
                    uint64_t block, uint32_t flags, int *error);
int mem_start(struct mem *mem, void *queue);
void mem_reset(struct mem *mem);
int mem_request(struct mem *mem, uint64_t bytes, uint64_t *usable);
uint64_t mem_plugged(struct mem *mem);
int mem_done(struct mem *mem);
void mem_free(struct mem *mem);
""")
ffibuilder.set_source(
    "vmm_virtio_mem._native",
    '#include "mem.h"\n',
    sources=["native/mem.c"],
    depends=["native/mem.h", f"{get_include()}/vmmcore.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
