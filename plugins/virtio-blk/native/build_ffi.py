# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_virtio_blk._native`` (run by setuptools through ``cffi_modules``)."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

try:
    from vmmcore import get_include
except ImportError:  # built inside the source tree, before the core is installed

    def get_include() -> str:
        return str(Path(__file__).resolve().parents[3] / "vmmcore" / "include")


HEADERS = ["blk.h", "disk.h", "pool.h", "request.h", "uring.h"]

ffibuilder = FFI()
ffibuilder.cdef("""
struct blk;
struct blk_setup {
  int fd;
  bool readonly, direct, sparse, no_uring;
  uint32_t queues;
  char id[20];
  uint64_t bw[3], ops[3];
};
struct blk_info {
  uint64_t capacity;
  uint32_t block, physical, alignment, min_io, opt_io, granularity;
  uint32_t max_range, max_segments;
  bool is_device;
};
struct blk_counters {
  uint64_t read_bytes, read_ops, write_bytes, write_ops, flushes, discards, write_zeroes, errors;
};
struct blk *blk_new(const void *api, void *vm, const struct blk_setup *setup, int *error);
void blk_free(struct blk *blk);
void blk_get_info(const struct blk *blk, struct blk_info *info);
int blk_start(struct blk *blk, uint32_t index, void *queue);
void blk_stop(struct blk *blk);
bool blk_uring(const struct blk *blk);
void blk_set_writeback(struct blk *blk, bool writeback);
int blk_resize(struct blk *blk);
void blk_get_counters(const struct blk *blk, struct blk_counters *out);
""")
ffibuilder.set_source(
    "vmm_virtio_blk._native",
    '#include "blk.h"\n',
    sources=["native/blk.c", "native/disk.c", "native/pool.c", "native/request.c", "native/uring.c"],
    depends=[f"native/{header}" for header in HEADERS],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-fvisibility=hidden"],
)
