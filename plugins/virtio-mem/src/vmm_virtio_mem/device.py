# SPDX-License-Identifier: Apache-2.0
"""The runner's half of virtio-mem: the region of RAM, and a thin handle on the C data plane."""

from __future__ import annotations

from vmmcore.errors import VmmError
from vmmcore.machine.memory import HUGE, LAZY, PREFAULT, SHARED, flags_of
from vmmcore.virtio import VirtioDevice

from ._native import ffi, lib

UNPLUGGED_INACCESSIBLE = 1 << 1  # the driver promises to stay away from what is not plugged
ACPI_PXM = 1 << 0  # node_id is there
USABLE, REQUESTED = 32, 48  # offsets in the configuration (virtio 1.2 §5.15.4)


class Mem(VirtioDevice):
    """virtio 1.2 §5.15: a region of RAM, of which the guest plugs and unplugs blocks as it is asked to.

    Options: ``zone`` ("": --memory's), ``address``, ``region_size``, ``block_size`` and ``requested_size`` in bytes,
    ``node`` (of the guest, or None), ``memory``: how it is backed, as ``plan["memory"]`` has it.
    """

    operations = ("requested",)
    virtio_id = 24
    class_code = 0x050000  # a memory controller: RAM (PCI Code and ID Assignment)
    queue_sizes = (128,)
    in_order = True

    def configure(self) -> None:
        options, memory = self.options, self.options["memory"]
        self.memory_zone: str = options["zone"]
        self._size, self._block = options["region_size"], options["block_size"]
        node, address = options["node"], options["address"]
        flags = flags_of(memory)
        host_node = memory.get("host_numa_node")
        if (address, self._size) not in self.machine.memory.regions:
            self.machine.memory.add(address, self._size, flags & ~PREFAULT | LAZY, memory.get("hugepage_size") or 0,
                                    node=-1 if host_node is None else host_node)
        error = ffi.new("int *")
        self._mem = lib.mem_new(
            ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address), self.id.encode(),
            self.token, address, self._size, self._block,
            (1 if flags & (SHARED | HUGE) else 0) | (2 if flags & (PREFAULT | HUGE) else 0), error)
        if not self._mem:
            import os

            raise VmmError(f"{self.id}: cannot create the memory device: {os.strerror(-error[0])}")
        self.device_features = UNPLUGGED_INACCESSIBLE | (0 if node is None else ACPI_PXM)
        requested = options["requested_size"]
        usable = self._request(requested)
        numbers = (self._block, node or 0, address, self._size, usable, 0, requested)
        self.config_space = b"".join(number.to_bytes(8, "little") for number in numbers)

    def start(self) -> None:
        queue = self.queues[0]
        if queue.active and (error := lib.mem_start(self._mem, ffi.cast("void *", queue.address))):
            import os

            raise VmmError(f"{self.id}: cannot start: {os.strerror(-error)}")

    def stop(self) -> None:
        if self.state != "paused":
            lib.mem_reset(self._mem)

    def event(self, arg: int) -> None:
        """The transport's events, and: the guest has come to the size that it was asked for."""
        super().event(arg)
        if lib.mem_done(self._mem):
            self._tell()

    def remove(self) -> None:
        """The region stays RAM until the machine is closed: the guest may use it still."""
        mem, self._mem = self._mem, ffi.NULL
        lib.mem_free(mem)

    # --- what the runner asks ---

    @property
    def memory_delta(self) -> int:
        """Bytes of RAM that the guest has beyond those of its start."""
        return lib.mem_plugged(self._mem)

    def check_size(self, size: int) -> None:
        """Raise VmmError unless the guest can be asked for `size` bytes of the region."""
        if not 0 <= size <= self._size:
            where = f"zone '{self.memory_zone}'" if self.memory_zone else "memory"
            raise VmmError(f"{where}: {size} bytes beyond those of the start are not 0 to {self._size} (hotplug_size=)")
        if size % self._block:
            raise VmmError(f"memory: {size} bytes beyond those of the start are no multiple of {self._block}")

    def requested(self) -> int:
        """Bytes that the guest was asked to have plugged."""
        return int.from_bytes(self.config[REQUESTED : REQUESTED + 8], "little")

    def resize(self, size: int) -> None:
        """Ask the guest to have `size` bytes of the region plugged. Raises VmmError."""
        self.check_size(size)
        usable = self._request(size)
        self.update_config(USABLE, usable.to_bytes(8, "little"), notify=False)
        self.update_config(REQUESTED, size.to_bytes(8, "little"))
        if size == self.memory_delta:
            self._tell()

    def _request(self, size: int) -> int:
        usable = ffi.new("uint64_t *")
        if lib.mem_request(self._mem, size, usable):
            raise VmmError(f"{self.id}: {size} bytes cannot be asked for")
        return int(usable[0])

    def _tell(self) -> None:
        from vmmcore.machine.hotplug import actual_size, memory_size

        zone = {"zone": self.memory_zone} if self.memory_zone else {}
        self.machine.tell("memory-resized", memory=memory_size(self.machine), memory_actual=actual_size(self.machine),
                          **zone)
