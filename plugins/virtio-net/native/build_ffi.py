# SPDX-License-Identifier: Apache-2.0
"""Builds ``vmm_virtio_net._native`` (run by setuptools through ``cffi_modules``)."""

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
struct net;
struct net *net_new(const void *api, void *vm, const char *id, int mode, uint32_t pairs, const int *fds, int *error);
void net_free(struct net *net);
int net_limit(struct net *net, uint64_t bw_size, uint64_t bw_burst, uint64_t bw_refill_ms, uint64_t ops_size,
              uint64_t ops_burst, uint64_t ops_refill_ms);
int net_start(struct net *net, uint32_t pair, uintptr_t rx_queue, uintptr_t tx_queue, int enabled);
int net_enable(struct net *net, uint32_t pair, int enabled);
void net_stop(struct net *net);
int net_tap_header(int fd, int size);
int net_tap_offload(int fd, uint32_t flags);
int net_tap_attach(int fd, int attached);
int net_tap_filter(int fd, int all_multicast, uint32_t count, const uint8_t *addresses);

struct vhost_queue {
  uint32_t index, size, base;
  uint64_t desc, driver, device;
  int kick_fd, call_fd;
};
int vhost_features(int fd, uint64_t *features);
int vhost_start(int fd, const void *api, void *vm, uint64_t features, uint32_t regions, const uint64_t *memory);
int vhost_queue(int fd, const void *api, void *vm, const struct vhost_queue *queue);
int vhost_backend(int fd, uint32_t index, int tap_fd);
int vhost_base(int fd, uint32_t index);
""")
ffibuilder.set_source(
    "vmm_virtio_net._native",
    '#include "net.h"\n#include "vhost.h"\n',
    sources=["native/net.c", "native/rx.c", "native/tx.c", "native/vhost.c"],
    depends=["native/net.h", "native/plane.h", "native/vhost.h", f"{get_include()}/vmmcore.h",
             f"{get_include()}/vmm_bucket.h"],
    include_dirs=["native", get_include()],
    define_macros=[("Py_LIMITED_API", "0x030b0000"), ("_GNU_SOURCE", "1")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-fvisibility=hidden"],
)
