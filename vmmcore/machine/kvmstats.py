# SPDX-License-Identifier: Apache-2.0
"""What KVM counts of a vCPU by itself: most exits never reach us. KVM API §4.133 KVM_GET_STATS_FD (Linux 5.14).

Imported when somebody asks for counters.
"""

from __future__ import annotations

import os
from struct import unpack_from

#: of KVM's names those that say what a guest does; each architecture has some of them
NAMES = ("exits", "halt_exits", "irq_exits", "irq_injections", "hypercalls", "halt_wait_ns",
         "wfi_exit_stat", "wfe_exit_stat", "hvc_exit_stat", "mmio_exit_kernel")


class KvmStats:
    """The statistics of one VM's vCPUs, which all have the same layout; read when it is first needed."""

    def __init__(self) -> None:
        self._at: dict[str, int] | None = None
        self._size = 0

    def of(self, fd: int) -> dict[str, int]:
        """``kvm_NAME`` -> number, of the vCPU whose statistics `fd` reads; nothing if it is -1."""
        if fd < 0:
            return {}
        if self._at is None:
            self._at = self._layout(fd)
        data = os.pread(fd, self._size, 0)
        return {f"kvm_{name}": unpack_from("=Q", data, at)[0] for name, at in self._at.items() if at + 8 <= len(data)}

    def _layout(self, fd: int) -> dict[str, int]:
        """Where in the file each of our names is."""
        _, name_size, count, _, descriptors, values = unpack_from("=6I", os.pread(fd, 24, 0))
        step = 16 + name_size
        table = os.pread(fd, count * step, descriptors)
        found = {}
        for at in range(0, len(table) - step + 1, step):
            name = table[at + 16 : at + step].rstrip(b"\0").decode(errors="replace")
            if name in NAMES:
                found[name] = values + unpack_from("=IhHI", table, at)[3]
        self._size = max(found.values(), default=-8) + 8
        return found
