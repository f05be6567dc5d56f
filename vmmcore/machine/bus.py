# SPDX-License-Identifier: Apache-2.0
"""Python handlers on the bus. The C table calls them through one trampoline, on the vCPU's thread."""

from __future__ import annotations

from vmmcore.errors import origin

from .native import check, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .native import VmHandle

    Read = Callable[[int, int], int]  # (offset, size) -> value
    Write = Callable[[int, int, int], None]  # (offset, size, value)


def report(where: str, error: BaseException) -> None:
    """A bug in a device must not take the guest's thread with it: say so and go on."""
    import sys

    kind = type(error).__name__
    found = origin(error)
    place = f" ({found[0]}:{found[1]})" if found else ""
    sys.stderr.write(f"vmm: error: {where}: {kind}: {error}{place}\n")


class Handler:
    """A pair of Python functions that C can call. Keep it alive as long as it is mapped."""

    __slots__ = ("c_opaque", "name", "read", "reported", "write")

    def __init__(self, name: str, read: Read | None, write: Write | None) -> None:
        self.name, self.read, self.write = name, read, write
        self.reported = 0
        self.c_opaque = ffi.new_handle(self)

    def failed(self, error: BaseException) -> None:
        self.reported += 1
        if self.reported <= 5:  # a guest can repeat the access for ever
            report(self.name, error)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def vmm_py_io(opaque: object, offset: int, data: object, size: int, is_write: int) -> None:
    handler: Handler = ffi.from_handle(opaque)
    try:
        buffer = ffi.buffer(data, size)
        if is_write:
            if handler.write is not None:
                handler.write(offset, size, int.from_bytes(buffer, "little"))
        elif handler.read is not None:
            value = handler.read(offset, size) & ((1 << (8 * size)) - 1)
            buffer[:] = value.to_bytes(size, "little")
    except Exception as error:
        handler.failed(error)


class Region:
    """A mapped range of ports or addresses."""

    __slots__ = ("_space", "base", "handler", "size")

    def __init__(self, space: BusSpace, base: int, size: int, handler: Handler) -> None:
        self._space, self.base, self.size, self.handler = space, base, size, handler

    def remove(self) -> None:
        """Unmap. When this returns no handler of the region runs."""
        if self.base >= 0:
            lib.vmm_bus_del(self._space.vm, self._space.number, self.base)
            self._space.regions.discard(self)
            self.base = -1


class BusSpace:
    """Port I/O (``machine.pio``) or memory-mapped I/O (``machine.mmio``)."""

    __slots__ = ("number", "regions", "vm")

    def __init__(self, vm: VmHandle, number: int) -> None:
        self.vm, self.number = vm, number
        self.regions: set[Region] = set()

    def add(self, base: int, size: int, read: Read | None = None, write: Write | None = None,
            name: str = "device") -> Region:
        """Map `size` bytes at `base`. Each guest access calls Python: for registers, not for data paths.

        read(offset, size) returns the value; write(offset, size, value). Sizes are 1, 2, 4 or 8 bytes.
        Raises KvmError if the range is taken.
        """
        handler = Handler(name, read, write)
        check(self.vm, lib.vmm_bus_add(self.vm, self.number, base, size, lib.vmm_py_io, handler.c_opaque))
        region = Region(self, base, size, handler)
        self.regions.add(region)
        return region
