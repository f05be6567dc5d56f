# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_arch_x86_64._native`` (cffi, API mode): the C in ``native/``."""

from __future__ import annotations

import pathlib

from cffi import FFI

HERE = pathlib.Path(__file__).resolve().parent
SOURCES = ["cpuid.c", "vcpu.c", "state.c", "clock.c", "platform.c", "rtc.c"]


def core_include() -> str:
    """Directory of ``vmmcore.h``: the installed core's, else the one beside us in the source tree."""
    try:
        from vmmcore import get_include

        return str(get_include())
    except ImportError:
        return str(HERE.parent.parent / "vmmcore" / "include")


ffi = FFI()
ffi.cdef((HERE / "native" / "cdefs.h").read_text().split("/* cdefs: */", 1)[1])
ffi.set_source(
    "vmm_arch_x86_64._native",
    '#include "arch.h"',
    sources=[f"native/{name}" for name in SOURCES],
    include_dirs=["native", core_include()],
    depends=[f"native/{name}" for name in ("arch.h", "cdefs.h")] + [core_include() + "/vmmcore.h"],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
    py_limited_api=True,
)
