# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_serial._native`` (run by setuptools through ``cffi_modules``)."""

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
struct uart16550_state {
  uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
  uint8_t lsr_errors, msr_deltas, thre_pending;
  uint8_t rx_len, tx_len;
  uint8_t rx[16], tx[16];
};
struct vmm_uart_counters { uint64_t rx_bytes, tx_bytes, rx_overruns, tx_overruns, interrupts; };
struct serial;
struct serial *serial_new(const void *api, void *vm, uint16_t port, uint32_t gsi, int in_fd, int out_fd,
                          uint32_t flags, int *error);
void serial_free(struct serial *serial);
void serial_reset(struct serial *serial);
void serial_pause(struct serial *serial, int paused);
void serial_save(struct serial *serial, struct uart16550_state *state);
int serial_restore(struct serial *serial, const struct uart16550_state *state);
void serial_read_counters(struct serial *serial, struct vmm_uart_counters *counters);
enum { VMM_CHARDEV_RAW, VMM_CHARDEV_ESCAPE, VMM_CHARDEV_DROP, ... };
""")
ffibuilder.set_source(
    "vmm_serial._native",
    '#include "serial.h"\n#include "vmmcore.h"\n',
    sources=["native/serial.c", "native/uart16550.c"],
    depends=["native/serial.h", "native/uart16550.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
