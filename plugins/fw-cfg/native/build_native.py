# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_fw_cfg._native`` (run by setuptools through ``cffi_modules``)."""

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
struct fw_cfg;
struct fw_cfg_state { uint16_t key; uint32_t offset, dma_high; };
struct fw_cfg_counters { uint64_t selects, read_bytes, dma_errors; };
struct fw_cfg *fw_cfg_new(const void *api, void *vm, int *error);
int fw_cfg_add(struct fw_cfg *f, int key, const char *name, const void *data, int fd, uint32_t size);
int fw_cfg_start(struct fw_cfg *f, int space, uint64_t address);
void fw_cfg_free(struct fw_cfg *f);
void fw_cfg_reset(struct fw_cfg *f);
void fw_cfg_save(struct fw_cfg *f, struct fw_cfg_state *state);
void fw_cfg_restore(struct fw_cfg *f, const struct fw_cfg_state *state);
void fw_cfg_read_counters(struct fw_cfg *f, struct fw_cfg_counters *counters);
enum { VMM_PIO, VMM_MMIO, ... };
""")
ffibuilder.set_source(
    "vmm_fw_cfg._native",
    '#include "fw_cfg.h"\n#include "vmmcore.h"\n',
    sources=["native/fw_cfg.c"],
    depends=["native/fw_cfg.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-fvisibility=hidden"],
)
