# SPDX-License-Identifier: Apache-2.0
"""A virtio-pci driver in Python: tests a virtio device without a guest.

The device, the core and the KVM VM are real; only the vCPUs are missing, and this driver makes their accesses::

    with VirtioDriver(MyDevice, options={"size": 4}) as driver:
        driver.start()
        reply = driver.request(0, out=[b"hello"], in_=[64])
        assert reply.data == b"hello"

or, as a command line would have it, ``VirtioDriver.flag("--disk", "path=disk.img,readonly=on")``. Requirements of the
driver are those of virtio 1.2 §3.1 (initialisation), §4.1 (PCI) and §2.7, §2.8 (rings); every step can also be taken
alone, in any order, and wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmmcore.machine.assembly import Machine
from vmmcore.virtio import F_EVENT_IDX, F_IN_ORDER, F_INDIRECT_DESC, F_RING_PACKED

from vmm_testkit.virtio_machine import RAM, empty_plan, plan_flag, spec_of_class
from vmm_testkit.virtio_pci import (
    ACKNOWLEDGE,
    COMMON,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    NEEDS_RESET,
    NO_VECTOR,
    NOTIFY,
    VirtioError,
    VirtioPci,
)  # fmt: skip
from vmm_testkit.virtio_ring import DriverQueue, PackedQueue, Piece, SplitQueue, Token

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from vmmcore.device import Device

__all__ = [
    "ACKNOWLEDGE", "COMMON", "DRIVER", "DRIVER_OK", "FAILED", "FEATURES_OK", "NEEDS_RESET", "NO_VECTOR",
    "PackedQueue", "Reply", "SplitQueue", "Token", "VirtioDriver", "VirtioError",
]  # fmt: skip

#: where requests' memory begins in the first piece of RAM
_HEAP = 1 << 20


class Reply:
    """What a device answered.

    length  bytes that it says it wrote
    pieces  the writable pieces, each whole
    """

    def __init__(self, length: int, pieces: list[bytes]) -> None:
        self.length, self.pieces = length, pieces

    @property
    def data(self) -> bytes:
        """The `length` bytes that were written."""
        return b"".join(self.pieces)[: self.length]

    def __repr__(self) -> str:
        return f"Reply({self.length}, {self.pieces!r})"


class _Arena:
    """Guest memory that is given out upwards and freed all at once."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end, self.at = start, end, start

    def take(self, size: int, align: int = 1) -> int:
        at = -(-self.at // align) * align
        if at + size > self.end:
            raise VirtioError(f"the test's guest memory has no {size} bytes left; reset() frees all of it")
        self.at = at + size
        return at

    def clear(self) -> None:
        self.at = self.start


class VirtioDriver(VirtioPci):
    """A machine with one virtio device, and its driver. A context manager.

    Args:
        device: a :class:`vmmcore.virtio.VirtioDevice` class, anywhere.
        options: its options, as its plugin would put them into the plan.
        files: open fds by name; the device gets duplicates.
        ram: guest memory, [(address, bytes), …]; the first piece has at least 4 MiB; requests' data go to its upper half.

    Attributes:
        memory: the guest's (:class:`vmmcore.machine.memory.Memory`).
        queues: what was set up since the last reset, by number.
        features: what was agreed upon.
        The others are :class:`vmm_testkit.virtio_pci.VirtioPci`'s.
    """

    def __init__(
        self,
        device: type[Device],
        *,
        options: Mapping[str, Any] | None = None,
        files: Mapping[str, int] | None = None,
        ram: Sequence[tuple[int, int]] = RAM,
        id: str = "dev0",
    ) -> None:
        names = list(files or {})
        plan = empty_plan(ram)
        plan["devices"].append(spec_of_class(device, id, options or {}, {name: n for n, name in enumerate(names)}))
        self._build(plan, [(files or {})[name] for name in names])

    @classmethod
    def flag(
        cls,
        flag: str,
        text: str = "",
        *,
        ram: Sequence[tuple[int, int]] = RAM,
        tell: Callable[[str], None] | None = None,
    ) -> Self:
        """The device that an installed plugin makes of a command line's ``--disk path=…``. Raises VmmError."""
        from vmmcore.plan import close_all

        self = cls.__new__(cls)
        plan = empty_plan(ram)
        fds = plan_flag(plan, flag, text, tell)
        try:
            assert len(plan["devices"]) == 1, f"{flag} {text} makes {len(plan['devices'])} devices"
            self._build(plan, fds)
        finally:
            close_all(fds)
        return self

    def _build(self, plan: dict[str, Any], fds: list[int]) -> None:
        self.queues: dict[int, DriverQueue] = {}
        self.features = 0
        base, size = plan["memory"]["regions"][0]
        middle, end = base + size // 2, base + size
        self._heap = _Arena(base + _HEAP, middle)  # rings, tables and what tests ask for
        self._room = _Arena(middle, end)  # requests' buffers
        machine = Machine(plan, fds)
        try:
            machine.build()
            spec = plan["devices"][0]
            self.memory = machine.memory
            machine.start()
            super().__init__(machine, machine.devices[spec["id"]], spec["slot"])  # type: ignore[arg-type]
        except BaseException:
            machine.close()
            raise

    def close(self) -> None:
        """Remove the device and the machine; nothing is left of them."""
        self.machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- life cycle ----------------------------------------------------------------------------------------

    def reset(self, timeout: float = 10.0) -> None:
        """Write 0 to the status and wait until it reads 0 (§4.1.4.3.2). Memory given out is free again."""
        self.status = 0
        self.wait_until(lambda: self.status == 0, "reset", timeout)
        self.settle()
        self.queues.clear()
        self._heap.clear()
        self._room.clear()
        self.features = 0

    @property
    def offered(self) -> int:
        """The features that the device offers."""
        bits = 0
        for n in (0, 1):
            self.set_common("device_feature_select", n)
            bits |= self.common("device_feature") << 32 * n
        return bits

    def write_features(self, features: int) -> None:
        """Tell the device which features to use, without FEATURES_OK."""
        for n in (0, 1):
            self.set_common("driver_feature_select", n)
            self.set_common("driver_feature", features >> 32 * n & 0xFFFF_FFFF)

    def negotiate(self, features: int | None = None, *, without: int = 0) -> int:
        """ACKNOWLEDGE, DRIVER, features, FEATURES_OK; returns the features agreed upon.

        `features` are written as they are; by default all that is offered, but those of `without`.
        Raises VirtioError when the device takes FEATURES_OK back.
        """
        self.status = ACKNOWLEDGE
        self.status = ACKNOWLEDGE | DRIVER
        chosen = self.offered & ~without if features is None else features
        self.write_features(chosen)
        self.status = ACKNOWLEDGE | DRIVER | FEATURES_OK
        self.settle()
        if not self.status & FEATURES_OK:
            raise VirtioError(f"{self.device.id}: FEATURES_OK refused for 0x{chosen:x}")
        self.features = chosen
        return chosen

    def setup_queue(
        self, index: int, size: int | None = None, *, vector: int | None = None, enable: bool = True
    ) -> DriverQueue:
        """Areas in guest memory, registers, queue_enable. `size` defaults to what the device offers.

        `vector`: MSI-X vector, by default index + 1 (the last one for what is beyond) if MSI-X is on.
        """
        self.set_common("queue_select", index)
        most = self.common("queue_size")
        assert most, f"{self.device.id} has no queue {index}"
        if size is not None:
            self.set_common("queue_size", size)
        kind: type[DriverQueue] = PackedQueue if self.features & F_RING_PACKED else SplitQueue
        size = size or most
        desc, driver, device = (self.alloc(length, 16) for length in kind.area_sizes(size))
        queue = kind(
            self.memory, index, size, (desc, driver, device),
            bool(self.features & F_EVENT_IDX), bool(self.features & F_IN_ORDER),
        )  # fmt: skip
        for name, address in (("queue_desc", desc), ("queue_driver", driver), ("queue_device", device)):
            self.set_common(name, address)
        if self.msix:
            self.set_common("queue_msix_vector", min(index + 1, self.vectors - 1) if vector is None else vector)
        queue.notify_address = (
            self.regions[NOTIFY][0] + self.common("queue_notify_off") * self.notify_multiplier
        )
        self.queues[index] = queue
        queue.want_interrupts()
        if enable:
            self.set_common("queue_enable", 1)
        return queue

    def driver_ok(self, timeout: float = 10.0) -> None:
        """DRIVER_OK, and wait until the device has started. Raises VirtioError if it asks for a reset."""
        self.status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
        self.wait_until(lambda: self.device.running or bool(self.status & NEEDS_RESET), "DRIVER_OK", timeout)
        if self.status & NEEDS_RESET:
            raise VirtioError(f"{self.device.id}: NEEDS_RESET after DRIVER_OK")
        self.settle()

    def start(
        self,
        features: int | None = None,
        *,
        without: int = 0,
        queues: Iterable[int] | Mapping[int, int] | None = None,
        size: int | None = None,
        msix: bool = True,
    ) -> int:
        """Reset, negotiate, set queues up, DRIVER_OK; returns the features agreed upon.

        queues  which ones (default: all), or their sizes by number; `size` is for those without
        msix    use MSI-X (as far as the device has it), else INTx
        """
        self.reset()
        agreed = self.negotiate(features, without=without)
        if msix and self.vectors:
            self.enable_msix()
            self.set_common("config_msix_vector", 0)
        elif self.msix:
            self.disable_msix()
        wanted = range(self.common("num_queues")) if queues is None else queues
        for index in wanted:
            self.setup_queue(index, wanted[index] if isinstance(wanted, Mapping) else size)
        self.driver_ok()
        return agreed

    def reset_queue(self, index: int, timeout: float = 10.0) -> None:
        """Reset one queue (VIRTIO_F_RING_RESET, §2.6.1); set it up again with :meth:`setup_queue`."""
        self.set_common("queue_select", index)
        self.set_common("queue_reset", 1)

        def over() -> bool:
            self.set_common("queue_select", index)
            return self.common("queue_reset") == 0 and self.common("queue_enable") == 0

        self.wait_until(over, f"reset of queue {index}", timeout)
        self.settle()
        self.queues.pop(index, None)

    # --- requests ------------------------------------------------------------------------------------------

    def alloc(self, size: int, align: int = 16) -> int:
        """Guest memory, zeroed, until the next reset: its address."""
        at = self._heap.take(size, align)
        self.memory.write(at, bytes(size))
        return at

    def submit(
        self, queue: int, out: Sequence[bytes] = (), in_: Sequence[int] = (), *, indirect: bool = False,
        kick: bool = True,
    ) -> Token:  # fmt: skip
        """Make a request available: `out` are the pieces for the device, `in_` the sizes of those that it fills.

        Use :meth:`wait` with the token. `indirect`: through an indirect table.
        """
        if not any(ring.pending for ring in self.queues.values()):
            self._room.clear()
        pieces: list[Piece] = []
        for data in out:
            at = self._room.take(len(data))
            self.memory.write(at, data)
            pieces.append((at, len(data), False))
        for size in in_:
            at = self._room.take(size)
            self.memory.write(at, bytes(size))
            pieces.append((at, size, True))
        table = None
        if indirect:
            assert self.features & F_INDIRECT_DESC, "INDIRECT_DESC was not negotiated"
            table = self._room.take(16 * len(pieces), 16)
        token = self.queues[queue].add(pieces, table)
        if kick:
            self.kick(queue)
        return token

    def kick(self, queue: int, force: bool = False) -> bool:
        """Notify the device if it asked for that (or with `force`); whether it was notified."""
        ring = self.queues[queue]
        wanted = ring.wants_kick() or force
        if wanted:
            self.bus.write(ring.notify_address, 2, queue)
        return wanted

    def collect(self, queue: int) -> list[Token]:
        """What the device has given back by now; asks for an interrupt with the next."""
        ring = self.queues[queue]
        ready = ring.collect()
        ring.want_interrupts()
        return ready + ring.collect()

    def wait(self, queue: int, token: Token, timeout: float = 10.0) -> Reply:
        """Wait until the request is given back. Raises VirtioError, also when the device asks for a reset."""

        def over() -> bool:
            self.collect(queue)
            if not token.done and self.status & NEEDS_RESET:
                raise VirtioError(f"{self.device.id}: NEEDS_RESET during a request in queue {queue}")
            return token.done

        self.wait_until(over, f"a request in queue {queue}", timeout)
        assert token.length is not None
        pieces = [self.memory.read(at, size) for at, size, write in token.pieces if write]
        return Reply(token.length, pieces)

    def request(
        self, queue: int, out: Sequence[bytes] = (), in_: Sequence[int] = (), *, indirect: bool = False,
        timeout: float = 10.0,
    ) -> Reply:  # fmt: skip
        """:meth:`submit` and :meth:`wait`."""
        return self.wait(queue, self.submit(queue, out, in_, indirect=indirect), timeout)
