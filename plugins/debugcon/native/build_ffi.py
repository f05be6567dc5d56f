# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_debugcon._native`` (run by setuptools through ``cffi_modules``)."""

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
struct debugcon;
struct debugcon_ports { uint16_t console, stamp, exit; };
struct debugcon_stamp { uint64_t time_ns; uint8_t value; ...; };
struct debugcon_counters { uint64_t tx_bytes, tx_dropped, stamps; };
struct debugcon *debugcon_new(const void *api, void *vm, const struct debugcon_ports *ports, int out_fd, uint32_t flags,
                              int *error);
void debugcon_free(struct debugcon *debugcon);
void debugcon_reset(struct debugcon *debugcon);
unsigned debugcon_stamps(struct debugcon *debugcon, struct debugcon_stamp *stamps);
void debugcon_read_counters(struct debugcon *debugcon, struct debugcon_counters *counters);
enum { DEBUGCON_STAMPS, VMM_CHARDEV_DROP, ... };
""")
ffibuilder.set_source(
    "vmm_debugcon._native",
    '#include "debugcon.h"\n#include "vmmcore.h"\n',
    sources=["native/debugcon.c"],
    depends=["native/debugcon.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
