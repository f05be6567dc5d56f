# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_watchdog._native`` (run by setuptools through ``cffi_modules``)."""

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
struct watchdog;
struct watchdog *watchdog_new(const void *api, void *vm, const char *id, uint64_t token, int *error);
void watchdog_off(struct watchdog *w);
void watchdog_pause(struct watchdog *w);
void watchdog_resume(struct watchdog *w);
int watchdog_expired(struct watchdog *w);
void watchdog_free(struct watchdog *w);
int watchdog_serve(struct watchdog *w, void *queue, uint64_t ns);
void watchdog_esb(struct watchdog *w, void *pci);
void watchdog_esb_io(void *watchdog, uint64_t offset, void *data, uint32_t size, int is_write);
void watchdog_esb_config(void *watchdog, uint32_t offset, uint32_t size, int is_write);
""")
ffibuilder.set_source(
    "vmm_watchdog._native",
    '#include "watchdog.h"\n',
    sources=["native/watchdog.c", "native/esb.c"],
    depends=["native/watchdog.h", "native/internal.h", f"{get_include()}/vmmcore.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
