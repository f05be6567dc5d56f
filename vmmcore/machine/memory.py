# SPDX-License-Identifier: Apache-2.0
"""Guest memory as Python sees it: every access is checked in C (``vmm_mem``)."""

from __future__ import annotations

from vmmcore.errors import VmmError

from .native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .native import VmHandle

SHARED, HUGE, PREFAULT, MERGEABLE, THP, LAZY = 1, 2, 4, 8, 16, 32


class Window:
    """Host memory that the guest sees at an address and devices do not: a ROM, flash. See :meth:`Memory.window`.

    data       the bytes, as :class:`mmap.mmap` or another buffer
    address    of the bytes in this process, for a plugin's C half
    """

    __slots__ = ("_slot", "address", "data", "gpa", "readonly", "vm")

    def __init__(self, vm: VmHandle, gpa: int, data: Any, readonly: bool) -> None:
        self.vm, self.gpa, self.data, self.readonly = vm, gpa, data, readonly
        self.address = ffi.from_buffer(data)
        self._slot = ffi.new("int *", -1)

    def show(self) -> None:
        """From now on the guest sees it. Raises KvmError."""
        check(self.vm, lib.vmm_mem_slot(self.vm, self._slot, self.gpa, len(self.data), self.address, self.readonly))

    def hide(self) -> None:
        """All accesses go to the bus until :meth:`show`."""
        check(self.vm, lib.vmm_mem_slot(self.vm, self._slot, self.gpa, 0, ffi.NULL, 0))

    def close(self) -> None:
        """Hide it and let go of the bytes. In a device's ``remove()``."""
        self.hide()
        self.address = ffi.NULL
        self.data = b""


class Memory:
    """``machine.memory``. Addresses are guest-physical, sizes are in bytes."""

    __slots__ = ("regions", "vm")

    def __init__(self, vm: VmHandle) -> None:
        self.vm = vm
        self.regions: list[tuple[int, int]] = []

    def add(self, gpa: int, size: int, flags: int = 0, page_size: int = 0, fd: int = -1, node: int = -1) -> None:
        """Add RAM: of an open file, if `fd` is one, and of a NUMA node of the host, if `node` is. Raises KvmError."""
        check(self.vm, lib.vmm_mem_add_from(self.vm, gpa, size, flags, page_size, fd, node))
        self.regions.append((gpa, size))

    def place(self, filled: Any, gpa: int, size: int) -> None:
        """Add RAM that ``vmm_mem_prepare`` has made. Raises KvmError; then it is the caller's still."""
        check(self.vm, lib.vmm_mem_place(self.vm, filled))
        self.regions.append((gpa, size))

    def window(self, gpa: int, data: Any, readonly: bool = True) -> Window:
        """Have the guest see `data`, an open file's :class:`mmap.mmap` or another buffer, at `gpa`; no RAM.

        Address and length are whole pages. A read-only window is read without an exit, and what the guest writes to it
        comes to the bus (``machine.mmio``), where a handler may be. Raises KvmError, e.g. where RAM is.
        """
        window = Window(self.vm, gpa, data, readonly)
        window.show()
        return window

    def view(self, gpa: int, size: int) -> memoryview:
        """The bytes themselves, writable, valid while the VM lives. Raises VmmError if not all of it is RAM.

        Call :meth:`dirty` after writing through it.
        """
        address = lib.vmm_mem(self.vm, gpa, size)
        if address == ffi.NULL:
            raise VmmError(f"guest memory 0x{gpa:x}+0x{size:x} is not RAM")
        return memoryview(ffi.buffer(address, size)).cast("B")

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of guest memory. Raises VmmError."""
        return bytes(self.view(gpa, size))

    def write(self, gpa: int, data: bytes) -> None:
        """Copy into guest memory. Raises KvmError (EFAULT) if not all of it is RAM."""
        check(self.vm, lib.vmm_mem_write(self.vm, gpa, data, len(data)))

    def dirty(self, gpa: int, size: int) -> None:
        """Tell a migration that [gpa, gpa+size) was written through a view."""
        lib.vmm_mem_dirty(self.vm, gpa, size)

    def load(self, gpa: int, fd: int, offset: int, size: int) -> None:
        """Read part of a file into guest memory. Raises KvmError."""
        check(self.vm, lib.vmm_mem_load(self.vm, gpa, fd, offset, size))

    def slots(self) -> int:
        """How many of KVM's memory slots the VM has taken, for RAM and for memory of BARs."""
        return int(lib.vmm_mem_slots(self.vm))

    def log(self, on: bool) -> None:
        """Start or stop logging which pages are written."""
        check(self.vm, lib.vmm_mem_log(self.vm, on))

    def dirty_pages(self, gpa: int) -> bytes:
        """Fetch and clear the log of the region that starts at `gpa`: a bitmap, one bit per 4 KiB page."""
        size = next((size for base, size in self.regions if base == gpa), 0)
        words = (size // 4096 + 63) // 64
        bitmap: Any = ffi.new("uint64_t[]", max(words, 1))
        check(self.vm, int(lib.vmm_mem_fetch_log(self.vm, gpa, bitmap, words)))
        return bytes(ffi.buffer(bitmap, words * 8))


def flags_of(how: dict[str, Any]) -> int:
    """The flags of ``vmm_mem_add`` for plan["memory"], or for one of its zones."""
    names = {"shared": SHARED, "hugepages": HUGE, "prefault": PREFAULT, "mergeable": MERGEABLE, "thp": THP}
    return sum(flag for name, flag in names.items() if how.get(name))


def parts(plan_memory: dict[str, Any]) -> list[tuple[int, int, dict[str, Any]]]:
    """All RAM of plan["memory"]: (address, bytes, what says how it is backed)."""
    zones = plan_memory.get("zones")
    if zones:
        return [(gpa, size, zone) for zone in zones for gpa, size in zone["regions"]]
    ram = [*plan_memory["regions"], *plugged(plan_memory)]
    return [(gpa, size, plan_memory) for gpa, size in ram]


def plugged(plan_memory: dict[str, Any]) -> list[tuple[int, int]]:
    """What ACPI has plugged in beyond the RAM of the start: (address, bytes)."""
    hotplug = plan_memory.get("hotplug")
    if not hotplug or hotplug["method"] != "acpi" or not hotplug["plugged"]:
        return []
    return [(hotplug["base"], hotplug["plugged"])]
