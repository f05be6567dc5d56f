# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_flash._native`` (run by setuptools through ``cffi_modules``)."""

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
struct nor_state { ...; };
struct flash_counters { uint64_t programs, erases, syncs; };
struct flash;
struct flash *flash_new(const void *api, void *vm, uint64_t address, uint64_t size, int fd, uint64_t backed,
                        int writable, int *error);
void flash_free(struct flash *flash);
void flash_reset(struct flash *flash);
void flash_save(struct flash *flash, struct nor_state *state);
int flash_restore(struct flash *flash, const struct nor_state *state);
void flash_read_counters(struct flash *flash, struct flash_counters *counters);
""")
ffibuilder.set_source(
    "vmm_flash._native",
    '#include "flash.h"\n',
    sources=["native/flash.c", "native/nor.c"],
    depends=["native/flash.h", "native/nor.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden", "-pthread"],
)
