# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_virtio_console._native`` (run by setuptools through ``cffi_modules``)."""

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
enum { CONSOLE_TERMINAL, CONSOLE_INPUT, ... };
enum { VMM_CHARDEV_RAW, VMM_CHARDEV_ESCAPE, VMM_CHARDEV_DROP, ... };
struct console_port { const char *name; int in_fd, out_fd, listen_fd; uint32_t flags; };
struct console_port_state {
  uint8_t ready, guest_open, todo;
  uint64_t tx_done;
  uint32_t in_len;
  uint8_t in[...];
};
struct console;
struct console *console_new(const void *api, void *vm, const char *id, const struct console_port *ports, uint32_t n,
                            int legacy_size, int *error);
int console_start(struct console *console, void *const *queues, const uint8_t *fresh, uint32_t n, uint64_t features);
void console_stop(struct console *console);
void console_free(struct console *console);
int console_notice_fd(struct console *console);
int console_size(struct console *console, uint16_t *cols, uint16_t *rows);
void console_save(struct console *console, uint32_t port, struct console_port_state *state);
int console_restore(struct console *console, uint32_t port, const struct console_port_state *state);
""")
ffibuilder.set_source(
    "vmm_virtio_console._native",
    '#include "console.h"\n#include "vmmcore.h"\n',
    sources=["native/console.c", "native/control.c", "native/stream.c"],
    depends=["native/console.h", "native/internal.h", f"{get_include()}/vmmcore.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
