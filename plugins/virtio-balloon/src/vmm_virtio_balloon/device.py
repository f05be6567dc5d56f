# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the balloon: its size and statistics; pages are handled in C."""

from __future__ import annotations

from vmmcore.errors import VmmError
from vmmcore.virtio import VirtioDevice

from ._native import ffi, lib

PAGE = 4096
# virtio 1.2 §5.5.3
F_STATS_VQ, F_DEFLATE_ON_OOM, F_PAGE_REPORTING = 1 << 1, 1 << 2, 1 << 5
# struct virtio_balloon_config, §5.5.4: num_pages, actual, and what belongs to features that are not offered
NUM_PAGES, ACTUAL, CONFIG_SIZE = 0, 4, 16
INFLATE, DEFLATE, STATS, REPORTING = 0, 1, 2, 4
#: what the guest's statistics are called, by tag (§5.5.6.3, and what Linux has beyond)
STATISTICS = (
    "swap_in_bytes", "swap_out_bytes", "major_faults", "minor_faults", "free_memory", "total_memory",
    "available_memory", "disk_caches", "hugetlb_allocations", "hugetlb_failures", "oom_kills", "allocation_stalls",
    "async_scans", "direct_scans", "async_reclaims", "direct_reclaims",
)
#: those that do not only grow
GAUGES = ("free_memory", "total_memory", "available_memory", "disk_caches")
UNKNOWN = (1 << 64) - 1


class Balloon(VirtioDevice):
    """virtio 1.2 §5.5. Options: ``size`` (bytes), ``deflate_on_oom``, ``free_page_reporting``."""

    virtio_id = 5
    class_code = 0x00FF00  # a device of no class (PCI Code and ID Assignment: 00h, FFh)
    #: inflate, deflate, statistics, and two more: §5.5.2 calls the fifth that of reports, but drivers leave out queues
    #: of features that they do not use, and number the others without gaps
    queue_sizes = (128,) * 5
    queue_group = 5
    config_writable = bytes(ACTUAL) + b"\xff" * 4
    operations = ("resize", "statistics")

    def configure(self) -> None:
        options = self.options
        self.device_features = (F_STATS_VQ | (F_DEFLATE_ON_OOM if options.get("deflate_on_oom") else 0)
                                | (F_PAGE_REPORTING if options.get("free_page_reporting") else 0))
        self.config_space = (options.get("size", 0) // PAGE).to_bytes(4, "little").ljust(CONFIG_SIZE, b"\0")
        error = ffi.new("int *")
        self._balloon = lib.balloon_new(
            ffi.cast("void *", self.machine.api_address), ffi.cast("void *", self.machine.vm_address),
            self.id.encode(), error)
        if not self._balloon:
            import os

            raise VmmError(f"{self.id}: cannot create the balloon: {os.strerror(-error[0])}")

    def start(self) -> None:
        stats = bool(self.features & F_STATS_VQ)
        reports = {STATS + stats, REPORTING} if self.features & F_PAGE_REPORTING else set()
        queues = [ffi.cast("void *", queue.address if queue.active else 0) for queue in self.queues]
        error = lib.balloon_start(self._balloon, queues[INFLATE], queues[DEFLATE],
                                  queues[STATS] if stats else ffi.NULL, [queues[n] for n in sorted(reports)],
                                  len(reports))
        if error:
            import os

            raise VmmError(f"{self.id}: cannot start: {os.strerror(-error)}")

    def stop(self) -> None:
        lib.balloon_stop(self._balloon)

    def remove(self) -> None:
        balloon, self._balloon = self._balloon, ffi.NULL
        lib.balloon_free(balloon)

    # --- from outside ---

    @property
    def memory_delta(self) -> int:
        """Bytes by which the guest's memory differs from the machine's: what it has given up, negative.

        The guest writes it as it likes; more than all of its memory it cannot have given up.
        """
        actual = PAGE * int.from_bytes(self.config[ACTUAL:ACTUAL + 4], "little")
        return -min(actual, sum(size for _, size in self.machine.memory.regions))

    def resize(self, size: int) -> None:
        """Ask the guest to give up `size` bytes in all, rounded down to pages. Raises VmmError for more than it has."""
        memory = sum(bytes for _, bytes in self.machine.memory.regions)
        if not isinstance(size, int) or not 0 <= size <= memory:
            raise VmmError(f"{self.id}: a balloon of {size} bytes; the guest's memory has {memory}")
        self.update_config(NUM_PAGES, (size // PAGE).to_bytes(4, "little"))
        self._keep(size)

    resize_balloon = resize

    def _keep(self, size: int) -> None:
        """A reboot starts with this size."""
        for spec in self.machine.plan["devices"]:
            if spec["id"] == self.id:
                spec["options"] = {**spec["options"], "size": size}

    def statistics(self) -> dict[str, int]:
        """What the guest told last, in bytes and numbers (:data:`STATISTICS`); it is asked for newer ones.

        Also ``target`` and ``actual``: bytes that it shall give up, and that it has.
        """
        target = PAGE * int.from_bytes(self.config[NUM_PAGES:NUM_PAGES + 4], "little")
        return {"target": target, "actual": -self.memory_delta, **self._told()}

    def counters(self) -> dict[str, int]:
        return {name: value for name, value in self._told().items() if name not in GAUGES}

    def _told(self) -> dict[str, int]:
        out = ffi.new("uint64_t[16]")
        lib.balloon_stats(self._balloon, out)
        lib.balloon_ask(self._balloon)
        return {name: value for name, value in zip(STATISTICS, out, strict=True) if value != UNKNOWN}
