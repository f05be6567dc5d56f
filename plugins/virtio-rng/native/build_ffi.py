# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_virtio_rng._native`` (run by setuptools through ``cffi_modules``)."""

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
struct rng;
struct rng *rng_new(const void *api, void *vm, const char *id, int source, const uint64_t bw[3],
                    const uint64_t ops[3], int *error);
int rng_start(struct rng *rng, void *queue);
void rng_stop(struct rng *rng);
void rng_free(struct rng *rng);
""")
ffibuilder.set_source(
    "vmm_virtio_rng._native",
    '#include "rng.h"\n',
    sources=["native/rng.c"],
    depends=["native/rng.h", f"{get_include()}/vmmcore.h", f"{get_include()}/vmm_bucket.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
