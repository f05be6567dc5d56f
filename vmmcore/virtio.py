# SPDX-License-Identifier: Apache-2.0
"""Virtio devices over PCI: :class:`VirtioDevice`, its :class:`Queue`, and a :class:`Chain` for each request.

A device in Python::

    class Echo(VirtioDevice):
        virtio_id = 63
        queue_sizes = (64,)

        def handle(self, queue):
            for chain in queue:
                chain.write(chain.read())

A device with a data plane in C overrides :meth:`VirtioDevice.start`, hands ``queue.address`` to its C half,
which calls ``queue_serve()`` or ``queue_handle()`` (vmmcore.h), and :meth:`VirtioDevice.stop`.

The transport (virtio 1.2 §4.1: common configuration, ISR, notifications, device configuration) is served in C
(native/virtio.c), and so are the rings (native/queue.c). Python hears of DRIVER_OK and reset, on the main thread.
"""

from __future__ import annotations

from .device import PciDevice
from .errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

# Feature bits of every device (virtio 1.2 §6)
F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29
F_VERSION_1 = 1 << 32
F_ACCESS_PLATFORM = 1 << 33
F_RING_PACKED = 1 << 34
F_IN_ORDER = 1 << 35
F_RING_RESET = 1 << 40

#: what is counted of a queue, in the order of VMM_COUNT_* of native/queue.h: requests given back, bytes in them that
#: the driver wrote for the device and that the device wrote, interrupts, and times that a kick woke the device. What
#: vhost or another process does with a queue is not seen here
QUEUE_COUNTERS = ("requests", "out_bytes", "in_bytes", "interrupts", "kicks")

#: requests that a loop over a queue has in a row
TURN = 32

# VMM_WANT_* of native/virtio.h
_START, _HALT, _CONFIG, _FAILED = 1, 2, 4, 8


class Chain:
    """One request: what the driver wrote for the device, and room for the device to write.

    readable, writable    zero-copy memoryviews of guest memory; the guest may change it at any time
    """

    __slots__ = ("_chain", "_iov", "_kept", "_number", "_queue", "_written", "readable", "writable")

    def __init__(self, queue: Queue, chain: Any, iov: Any) -> None:
        from .machine.native import ffi

        self._queue, self._chain, self._iov = queue, chain, iov
        self._written, self._kept, self._number = 0, False, queue._popped
        views = [memoryview(ffi.buffer(iov[n].iov_base, iov[n].iov_len)).cast("B")
                 for n in range(chain.n_out + chain.n_in)]
        self.readable: list[memoryview] = [view.toreadonly() for view in views[:chain.n_out]]
        self.writable: list[memoryview] = views[chain.n_out:]

    @property
    def room(self) -> int:
        """Bytes that :meth:`write` still takes."""
        return int(self._chain.in_len) - self._written

    def read(self) -> bytes:
        """A copy of all that the driver wrote."""
        return b"".join(self.readable)

    def write(self, data: bytes) -> int:
        """Append to the writable pieces; returns how many bytes there was room for."""
        source, skip = memoryview(data).cast("B"), self._written
        for view in self.writable:
            part = view[skip:skip + len(source)]
            part[:] = source[:len(part)]
            skip = max(0, skip - len(view))
            source = source[len(part):]
            self._written += len(part)
            if not source:
                break
        return len(data) - len(source)

    def keep(self) -> Chain:
        """Do not give it back when the loop over the queue goes on: :meth:`push` will, later.

        If the device is stopped before, the requests kept last go back to the ring, and come again when it goes on
        after a pause. One that was kept while a later one was given back cannot: the driver gets it empty.
        """
        self._kept = True
        return self

    def push(self, written: int | None = None) -> None:
        """Give the request back to the driver; `written` bytes are filled (default: what :meth:`write` wrote).

        Nothing happens if it has been given back, or if the device was reset meanwhile.
        """
        self._queue._push(self, self._written if written is None else written)


class Queue:
    """A virtqueue. Usable from the device's start() until its stop() returns; iterate over it for requests.

    index    number of the queue
    size     its length in descriptors, as the driver chose it (0 while it is not active)
    address  the ``vmm_queue *`` for a C half, as an integer
    """

    __slots__ = ("_handler_fd", "_iov", "_kept", "_offloaded", "_popped", "_q", "address", "device", "index")

    def __init__(self, device: VirtioDevice, index: int) -> None:
        from .machine.native import ffi, lib

        self.device, self.index = device, index
        self._q = lib.vmm_virtio_queue(device._virtio, index)
        self.address = int(ffi.cast("uintptr_t", self._q))
        self._iov: Any = None
        self._kept: set[Chain] = set()
        self._handler_fd = -1
        self._offloaded = False
        self._popped = 0

    @property
    def active(self) -> bool:
        """Whether the driver has set it up and the device may use it."""
        return self.size > 0

    @property
    def size(self) -> int:
        from .machine.native import lib

        return int(lib.vmm_queue_size(self._q))

    @property
    def addresses(self) -> tuple[int, int, int]:
        """Guest-physical addresses of descriptor table, driver area (avail) and device area (used)."""
        from .machine.native import ffi, lib

        out = ffi.new("uint64_t[3]")
        lib.vmm_queue_addresses(self._q, out)
        return out[0], out[1], out[2]

    @property
    def kick_fd(self) -> int:
        """The eventfd that the driver's notifications write, for vhost or another process: see :meth:`offload`.

        A duplicate for this activation, which the core closes.
        """
        from .machine.native import lib

        self._offloaded = True
        return int(lib.vmm_queue_kick_fd(self._q))

    @property
    def call_fd(self) -> int:
        """An eventfd to write for an interrupt, whatever kind of interrupt the driver uses. The core's."""
        from .machine.native import check, lib

        return check(self.device.machine.vm, lib.vmm_queue_call_fd(self._q))

    def offload(self) -> None:
        """In start(): nobody here listens to the queue's kicks. Asking for :attr:`kick_fd` implies it."""
        self._offloaded = True

    @property
    def base(self) -> int:
        """Where the device is in the ring: index of the next available entry, for vhost's VRING_BASE.

        Packed: bit 15 is the wrap counter, bits 16..31 the same of the used position (as vhost has it).
        """
        from .machine.native import lib

        return int(lib.vmm_queue_base(self._q))

    @base.setter
    def base(self, value: int) -> None:
        from .machine.native import lib

        lib.vmm_queue_set_base(self._q, value)

    def pop(self) -> Chain | None:
        """The next request, to be given back with :meth:`Chain.push`; None when there is none."""
        from .machine.native import ffi, lib

        if self._iov is None:
            self._iov = ffi.new("struct iovec[]", self.size + 8)
        chain = ffi.new("struct vmm_chain *")
        if lib.vmm_queue_pop(self._q, chain, self._iov, len(self._iov)) <= 0:
            return None
        pieces = chain.n_out + chain.n_in
        iov = ffi.new("struct iovec[]", max(pieces, 1))
        ffi.memmove(iov, self._iov, pieces * ffi.sizeof("struct iovec"))
        self._popped += 1
        request = Chain(self, chain, iov)
        self._kept.add(request)
        return request

    def __iter__(self) -> Iterator[Chain]:
        """The requests that are there, at most :data:`TURN`. Each is given back when the loop goes on, unless kept.

        If there may be more, the device's handle() is called again after what else the main thread has to do: a
        driver that never stops asking holds up nobody.
        """
        from .machine.native import lib

        left = TURN
        while True:
            request = self.pop() if left else None
            if request is None:
                lib.vmm_queue_flush(self._q)
                if not left:
                    lib.vmm_queue_again(self._q)
                    return
                if not lib.vmm_queue_wait(self._q):
                    return
                continue
            left -= 1
            yield request
            if not request._kept and request in self._kept:
                self._kept.discard(request)
                lib.vmm_queue_push(self._q, request._chain, request._iov, request._written)

    def _push(self, request: Chain, written: int) -> None:
        from .machine.native import lib

        if request not in self._kept:
            return
        if not 0 <= written <= request._chain.in_len:
            raise VmmError(f"{self.device.id}: {written} bytes into a request with room for {request._chain.in_len}")
        self._kept.discard(request)
        lib.vmm_queue_push(self._q, request._chain, request._iov, written)
        lib.vmm_queue_flush(self._q)

    def counters(self) -> dict[str, int]:
        """What the queue has done since the machine was built: see :data:`QUEUE_COUNTERS`."""
        from .machine.native import ffi, lib

        out = ffi.new("uint64_t[]", len(QUEUE_COUNTERS))
        lib.vmm_queue_counts(self._q, out)
        return dict(zip(QUEUE_COUNTERS, out, strict=True))

    # --- driven by the device ---

    def _arm(self) -> None:
        """Have the main loop call the device's handle(), unless somebody else hears the kicks."""
        import posix

        from .machine.native import lib

        if not self.active or self._offloaded or lib.vmm_queue_handled(self._q):
            return

        def on_kick(fd: int, events: int) -> None:
            try:
                posix.read(fd, 8)
            except BlockingIOError:
                return
            lib.vmm_queue_kicked(self._q)
            self.device._guarded(self.device.handle, self)

        self._handler_fd = lib.vmm_queue_kick_fd(self._q)
        self.device.machine.loop.add(self._handler_fd, 1, on_kick)

    def _disarm(self) -> None:
        if self._handler_fd >= 0:
            self.device.machine.loop.remove(self._handler_fd)
        self._handler_fd, self._offloaded = -1, False

    def _forget(self) -> None:
        """The device has stopped: what it kept goes back, and the ring may be another one from now on."""
        from .machine.native import lib

        for request in sorted(self._kept, key=lambda kept: kept._number, reverse=True):
            if request._number == self._popped:
                lib.vmm_queue_unpop(self._q, request._chain)
                self._popped -= 1
            else:
                lib.vmm_queue_push(self._q, request._chain, request._iov, 0)
        if self._kept:
            lib.vmm_queue_flush(self._q)
        self._kept.clear()
        self._iov = None


class VirtioDevice(PciDevice):
    """A virtio device (modern, virtio 1.2) on PCI.

    Set the class attributes, or the instance's in :meth:`configure`. Then: :meth:`handle` for a device in
    Python; :meth:`start` and :meth:`stop` for one with resources of its own. Do not override realize(),
    activate(), pause(), resume() and event(): they are the transport's. ``running`` says whether the
    device is between start() and stop().
    """

    #: virtio 1.2 §5
    virtio_id = 0
    #: largest size of each queue, powers of two up to 32768
    queue_sizes: Sequence[int] = (256,)
    #: so many neighbouring queues share a loop (a network's pairs: 2); the groups are spread over the loops
    queue_group = 1
    #: feature bits of the device type that are offered
    device_features = 0
    #: the transport's own; a device takes away what its data plane cannot do
    transport_features = F_INDIRECT_DESC | F_EVENT_IDX | F_RING_RESET
    #: the device gives requests back in the order in which they came: offer VIRTIO_F_IN_ORDER
    in_order = False
    #: device configuration space at first, and a mask of the bits that the driver may write
    config_space = b""
    config_writable = b""
    revision = 1
    class_code = 0xFF0000
    interrupt_pin = True

    _virtio: Any = None

    # --- what a device class overrides ---

    def configure(self) -> None:
        """Set queue_sizes, device_features, config_space from ``self.options``. Called once, first."""

    def start(self) -> None:
        """The driver is ready (DRIVER_OK), or the VM goes on: ``self.queues`` are live.

        An exception becomes :meth:`fail`, and stop() is called. Main thread.
        """

    def stop(self) -> None:
        """Reset, pause or removal, only after start(): finish or drop what is in flight.

        No handler of a queue runs any more. When this returns nothing touches guest memory.
        """

    def handle(self, queue: Queue) -> None:
        """The driver made requests available in a queue that no C half has taken. Main thread."""
        for _ in queue:
            pass

    def check_features(self, features: int) -> bool:
        """FEATURES_OK: can the device honour the set that the driver chose? Runs on a vCPU's thread.

        Called only if overridden, after the checks in C: a subset of what was offered, VERSION_1, and the
        requirements of bits among each other (:attr:`feature_requires`).
        """
        return True

    #: bit -> bits that must be accepted with it (virtio 1.2 §5.1.3.1 and its like)
    feature_requires: dict[int, int] = {}

    def config_written(self) -> None:
        """The driver changed writable bytes of :attr:`config`, or a reset put them back. Main thread, soon after."""

    # --- what a device class uses ---

    running = False

    @property
    def features(self) -> int:
        """The bits that the driver accepted; 0 before FEATURES_OK."""
        from .machine.native import lib

        return int(lib.vmm_virtio_features(self._virtio))

    @property
    def config(self) -> bytes:
        """Device configuration space as it is now."""
        from .machine.native import ffi, lib

        buffer = ffi.new("uint8_t[]", 4096)
        return bytes(ffi.buffer(buffer, lib.vmm_virtio_config_read(self._virtio, buffer, 4096)))

    def update_config(self, offset: int, data: bytes, notify: bool = True) -> None:
        """Change device configuration space; the driver gets a configuration change interrupt.

        Raises VmmError outside of the space.
        """
        from .machine.native import lib

        if lib.vmm_virtio_config_set(self._virtio, offset, data, len(data), notify):
            raise VmmError(f"{self.id}: no {len(data)} bytes at offset {offset} of the device configuration")

    def fail(self, why: str) -> None:
        """The device cannot go on until the driver resets it: NEEDS_RESET, a log line, an event."""
        from .machine.native import lib

        lib.vmm_virtio_fail(self._virtio, why.encode()[:200])

    def add_shared_memory(self, number: int, size: int, fd: int = -1) -> None:
        """Shared memory region `number` of `size` bytes (virtio 1.2 §2.10, §4.1.4.7). In :meth:`configure`.

        `fd`: a file to map there, which stays the caller's; without one, zeroed memory. See :meth:`shared_memory`.
        """
        self._regions.append((number, size, fd))

    def shared_memory(self, number: int) -> memoryview:
        """The bytes of shared memory region `number`. Raises VmmError."""
        from .machine.native import ffi

        for region, address, size in self._mapped:
            if region == number:
                return memoryview(ffi.buffer(address, size)).cast("B")
        raise VmmError(f"{self.id}: no shared memory region {number}")

    # --- the transport's half ---

    _shared_base: Any = None
    _features_handle: Any = None

    def _build(self) -> None:
        self.queues: list[Queue] = []
        self._regions: list[tuple[int, int, int]] = []
        self._mapped: list[tuple[int, Any, int]] = []
        self.configure()
        self.device_id = self.subsystem_id = 0x1040 + self.virtio_id
        self.subsystem_vendor_id = self.vendor_id
        super()._build()

    def realize(self) -> None:
        from .machine import virtio

        self._virtio = virtio.create(self)
        self._mapped = virtio.share_memory(self, self._regions)
        if type(self).check_features is not VirtioDevice.check_features:
            self._features_handle = virtio.watch_features(self)
        self.queues = [Queue(self, index) for index in range(len(self.queue_sizes))]

    def activate(self) -> None:
        self._poll(resumed=True)

    def resume(self) -> None:
        self._poll(resumed=True)

    def pause(self) -> None:
        self._halt()

    def reset(self) -> None:
        self._halt()

    def event(self, arg: int) -> None:
        if self.state == "activated":  # else resume() looks
            self._poll()

    def _poll(self, resumed: bool = False) -> None:
        """Do what the registers ask for."""
        from .machine.native import lib

        want = lib.vmm_virtio_want(self._virtio)
        if want & _FAILED:
            self._say_failed()
            self._halt()
        if want & _HALT:
            self._halt()
            lib.vmm_virtio_settle(self._virtio)
        if want & (_HALT | _START) or resumed:
            self._go()
        if want & _CONFIG:
            self._guarded(self.config_written)

    def _go(self) -> None:
        from .machine.native import lib

        if self.running or lib.vmm_virtio_start(self._virtio):
            return
        self.running = True
        self._guarded(self.start)
        if type(self).handle is not VirtioDevice.handle:
            for queue in self.queues:
                queue._arm()

    def _halt(self) -> None:
        from .machine.native import lib

        if not self.running:
            return
        for queue in self.queues:
            queue._disarm()
        lib.vmm_virtio_quiesce(self._virtio)
        try:
            self.stop()
        except Exception as error:
            self._report(error)
        self.running = False
        for queue in self.queues:
            queue._forget()

    def _guarded(self, function: Callable[..., Any], *arguments: Any) -> None:
        """A bug in the device's code makes the device fail, not the VM."""
        try:
            function(*arguments)
        except Exception as error:
            self._report(error)
            self.fail(f"{type(error).__name__}: {error}")

    def _report(self, error: Exception) -> None:
        from .machine.bus import report

        report(self.id, error)

    def _say_failed(self) -> None:
        import sys

        from .machine.native import ffi, lib

        why = ffi.string(lib.vmm_virtio_why(self._virtio)).decode(errors="replace")
        sys.stderr.write(f"vmm: warning: {self.id} needs a reset by its driver: {why}\n")
        self.machine.tell("device-failed", device=self.id, reason=why)

    def _teardown(self) -> None:
        from .machine.native import lib

        lib.vmm_pci_detach(self.pci)
        self._halt()
        super()._teardown()

    def _free_pci(self) -> None:
        from .machine.native import lib

        virtio, self._virtio = self._virtio, None
        if virtio is not None:
            lib.vmm_virtio_free(virtio)
        super()._free_pci()
        if self._shared_base is not None:
            lib.vmm_shared_unmap(*self._shared_base)
            self._shared_base = None

    def _counters(self) -> dict[str, int]:
        found = self.counters()
        for queue in self.queues:
            counts = queue.counters()
            if queue.active or any(counts.values()):
                found.update({f"queue{queue.index}_{name}": count for name, count in counts.items()})
        return found

    def _save(self) -> dict[str, Any]:
        from .machine.native import ffi, lib

        buffer = ffi.new("uint8_t[]", lib.vmm_virtio_state_size(self._virtio))
        lib.vmm_virtio_save(self._virtio, buffer)
        return {**super()._save(), "virtio": bytes(ffi.buffer(buffer))}

    def _restore(self, state: dict[str, Any]) -> None:
        from .machine.native import lib

        super()._restore(state)
        saved = state.get("virtio", b"")
        if lib.vmm_virtio_restore(self._virtio, saved, len(saved)):
            raise VmmError(f"{self.id}: the saved state of its queues is of another device, or damaged")
