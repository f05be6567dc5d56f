# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_pl011._native`` (run by setuptools through ``cffi_modules``)."""

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
struct pl011_state {
  uint32_t ilpr, ibrd, fbrd, lcr_h, cr, ifls, imsc, ris, dmacr;
  uint32_t rsr;
  uint32_t overrun;
  uint32_t rx_len, tx_len;
  uint16_t rx[32];
  uint8_t tx[32];
};
struct vmm_uart_counters { uint64_t rx_bytes, tx_bytes, rx_overruns, tx_overruns, interrupts; };
struct pl011;
struct pl011 *pl011_new(const void *api, void *vm, uint64_t address, uint32_t gsi, int in_fd, int out_fd,
                        uint32_t flags, int *error);
void pl011_free(struct pl011 *p);
void pl011_reset(struct pl011 *p);
void pl011_pause(struct pl011 *p, int paused);
void pl011_save(struct pl011 *p, struct pl011_state *state);
int pl011_restore(struct pl011 *p, const struct pl011_state *state);
void pl011_read_counters(struct pl011 *p, struct vmm_uart_counters *counters);
enum { VMM_CHARDEV_RAW, VMM_CHARDEV_ESCAPE, VMM_CHARDEV_DROP, ... };
""")
ffibuilder.set_source(
    "vmm_pl011._native",
    '#include "pl011.h"\n#include "vmmcore.h"\n',
    sources=["native/pl011.c", "native/pl011_chip.c"],
    depends=["native/pl011.h", "native/pl011_chip.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
