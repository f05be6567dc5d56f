# SPDX-License-Identifier: Apache-2.0
"""The runner's half of a disk: what the guest is told of it, and a handle on the C data plane."""

from __future__ import annotations

import os

from vmmcore.errors import VmmError
from vmmcore.virtio import VirtioDevice

from ._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# virtio 1.2 §5.2.3
F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY, F_CONFIG_WCE, F_MQ, F_DISCARD, F_WRITE_ZEROES = (
    1 << bit for bit in (2, 5, 6, 9, 10, 11, 12, 13, 14))

#: bytes of struct virtio_blk_config (§5.2.4), and where some of it is
CONFIG_SIZE, CAPACITY, WRITEBACK = 60, 0, 32
SECTOR = 512


class Blk(VirtioDevice):
    """A disk over the file ``image``. Options: see :func:`vmm_virtio_blk.plugin.plan`."""

    virtio_id = 2
    class_code = 0x018000  # mass storage, of no kind that PCI knows
    operations = ("resize",)

    _blk: Any = ffi.NULL

    def configure(self) -> None:
        options = self.options
        readonly, sparse = bool(options.get("readonly")), bool(options.get("sparse", True))
        queues, size = int(options.get("num_queues", 1)), int(options.get("queue_size", 256))
        self._blk = self._open(readonly, sparse, queues)
        info = ffi.new("struct blk_info *")
        lib.blk_get_info(self._blk, info)
        self.queue_sizes = (size,) * queues
        self.device_features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY
        if readonly:
            self.device_features |= F_RO
        else:
            self.device_features |= F_CONFIG_WCE | F_WRITE_ZEROES | (F_DISCARD if sparse else 0)
        if queues > 1:
            self.device_features |= F_MQ
        self.config_space = _config(info, size, queues, sparse)
        self.config_writable = bytes(WRITEBACK) + (b"\0" if readonly else b"\1")

    def _open(self, readonly: bool, sparse: bool, queues: int) -> Any:
        options, error = self.options, ffi.new("int *")
        setup = ffi.new("struct blk_setup *", {
            "fd": self.files["image"], "readonly": readonly, "direct": bool(options.get("direct")),
            "sparse": sparse, "no_uring": not options.get("io_uring", True), "queues": queues,
            "id": str(options.get("serial", "")).encode()[:20],
            "bw": options.get("bw", [0, 0, 0]), "ops": options.get("ops", [0, 0, 0])})
        blk = lib.blk_new(ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address),
                          setup, error)
        if blk == ffi.NULL:
            raise VmmError(f"{self.id}: cannot use the disk: {os.strerror(-error[0])}")
        return blk

    def start(self) -> None:
        lib.blk_set_writeback(self._blk, self.config[WRITEBACK] != 0)
        for queue in self.queues:
            if queue.active:
                error = lib.blk_start(self._blk, queue.index, ffi.cast("void *", queue.address))
                if error:
                    raise VmmError(f"queue {queue.index} cannot be served: {os.strerror(-error)}")

    def stop(self) -> None:
        lib.blk_stop(self._blk)

    def config_written(self) -> None:
        lib.blk_set_writeback(self._blk, self.config[WRITEBACK] != 0)

    def remove(self) -> None:
        blk, self._blk = self._blk, ffi.NULL
        lib.blk_free(blk)
        for fd in self.files.values():
            os.close(fd)
        self.files = {}

    def resize(self, size: int | None = None) -> int:
        """Make the image `size` bytes long (None: it has been done), and tell the guest. The size in bytes.

        Raises VmmError: no such size, or the file cannot get it.
        """
        if size is not None:
            self._set_size(size)
        error = lib.blk_resize(self._blk)
        if error:
            raise VmmError(f"{self.id}: cannot read the disk's size: {os.strerror(-error)}")
        info = ffi.new("struct blk_info *")
        lib.blk_get_info(self._blk, info)
        self.update_config(CAPACITY, int(info.capacity).to_bytes(8, "little"))
        return int(info.capacity) * SECTOR

    def _set_size(self, size: int) -> None:
        info = ffi.new("struct blk_info *")
        lib.blk_get_info(self._blk, info)
        if not isinstance(size, int) or size <= 0 or size % info.block:
            raise VmmError(f"{self.id}: a disk of {size} bytes is not possible; give a multiple of {info.block}")
        if info.is_device or self.options.get("readonly"):
            why = "a block device" if info.is_device else "read-only"
            raise VmmError(f"{self.id}: the disk is {why}; change its size on the host, then resize without one")
        try:
            os.ftruncate(self.files["image"], size)
        except OSError as error:
            raise VmmError(f"{self.id}: cannot resize the image to {size} bytes: {error.strerror}") from None

    def save(self) -> dict[str, Any]:
        """The rings and the configuration space are the transport's; of the disk, its size, to compare."""
        info = ffi.new("struct blk_info *")
        lib.blk_get_info(self._blk, info)
        return {"capacity": int(info.capacity)}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises VmmError if the disk is smaller than it was."""
        info = ffi.new("struct blk_info *")
        lib.blk_get_info(self._blk, info)
        capacity = state.get("capacity")
        if not isinstance(capacity, int) or capacity > info.capacity:
            raise VmmError(f"{self.id}: saved with a disk of {capacity} sectors; this one has {info.capacity}")

    def counters(self) -> dict[str, int]:
        counters = ffi.new("struct blk_counters *")
        if self._blk != ffi.NULL:
            lib.blk_get_counters(self._blk, counters)
        return {name: int(getattr(counters, name)) for name in COUNTERS}


COUNTERS = ("read_bytes", "read_ops", "write_bytes", "write_ops", "flushes", "discards", "write_zeroes", "errors")


def _config(info: Any, queue_size: int, queues: int, sparse: bool) -> bytes:
    """struct virtio_blk_config (virtio 1.2 §5.2.4)."""
    config = bytearray(CONFIG_SIZE)
    block = info.block

    def put(offset: int, length: int, value: int) -> None:
        config[offset:offset + length] = min(value, (1 << 8 * length) - 1).to_bytes(length, "little")

    put(CAPACITY, 8, info.capacity)
    put(12, 4, max(queue_size - 2, 1))  # seg_max: all but header and status
    put(20, 4, block)  # blk_size
    put(24, 1, (info.physical // block).bit_length() - 1)  # physical_block_exp
    put(25, 1, info.alignment // block)  # alignment_offset
    put(26, 2, max(info.min_io // block, 1))  # min_io_size
    put(28, 4, info.opt_io // block)  # opt_io_size
    put(WRITEBACK, 1, 1)
    put(34, 2, queues)  # num_queues
    put(36, 4, info.max_range)  # max_discard_sectors
    put(40, 4, info.max_segments)  # max_discard_seg
    put(44, 4, max(info.granularity, block) // SECTOR)  # discard_sector_alignment
    put(48, 4, info.max_range)  # max_write_zeroes_sectors
    put(52, 4, info.max_segments)  # max_write_zeroes_seg
    put(56, 1, int(sparse))  # write_zeroes_may_unmap
    return bytes(config)
