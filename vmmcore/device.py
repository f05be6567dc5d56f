# SPDX-License-Identifier: Apache-2.0
"""What a device author subclasses: :class:`Device`, and :class:`PciDevice` for anything on PCI.

Life cycle (``device.state``)::

    configured ── activate ──▶ activated ◀── resume ─── paused
                                  │  └────── pause ──────▶ │
                                  └─ reset ─▶ reset ── activate …       any ── remove ─▶ removed

The machine drives it; a class overrides the methods it cares about. Handlers of guest
accesses run on vCPU threads, several at a time if the guest has several CPUs; the
other methods run on the main thread.
"""

from __future__ import annotations

from .errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    from .machine.assembly import Machine
    from .registers import RegisterMap

    Map = TypeVar("Map", bound=RegisterMap)

_NEXT = {
    "configured": ("activated", "removed"),
    "activated": ("paused", "reset", "removed"),
    "paused": ("activated", "reset", "removed"),
    "reset": ("activated", "removed"),
    "removed": (),
}


class Device:
    """A device without a bus of its own: ports, addresses, interrupts by number.

    machine    the :class:`vmmcore.machine.assembly.Machine`
    id         unique in the VM: ``serial0``
    options    plain data from the plan
    resources  what the planner claimed: ``{"port": 0x3f8, "gsi": 4}``
    files      open fds by name; they are the device's own, to be closed in :meth:`remove`
    """

    #: Raised when the layout of save()'s dict changes.
    save_version = 1
    #: methods that may be called from outside while the VM lives (:meth:`vmmcore.Vm.call`); plain data in and out
    operations: tuple[str, ...] = ()
    #: what a C half gives post_event() as `arg`, so that :meth:`event` is called; the machine sets it
    token = 0

    def __init__(self, machine: Machine, id: str, options: dict[str, Any] | None = None,
                 resources: dict[str, Any] | None = None, files: dict[str, int] | None = None) -> None:
        self.machine, self.id = machine, id
        self.options, self.resources, self.files = options or {}, resources or {}, files or {}
        self.state = "configured"

    # --- what a device class overrides ---

    def realize(self) -> None:
        """Map registers, claim interrupt lines. Called once, before the guest runs."""

    def activate(self) -> None:
        """The guest is about to run (again)."""

    def pause(self) -> None:
        """Quiesce: when this returns, nothing of the device touches guest memory."""

    def resume(self) -> None:
        """Go on after :meth:`pause`."""

    def reset(self) -> None:
        """Back to the state after :meth:`realize`."""

    def remove(self) -> None:
        """Let go of everything: regions, lines, fds."""

    def save(self) -> dict[str, Any]:
        """State as plain data (int, str, bytes, bool, list, dict). The device is paused."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that :meth:`save` returned. Raises VmmError for one it cannot take."""

    def counters(self) -> dict[str, int]:
        """Numbers that only grow: ``{"tx_bytes": …}``."""
        return {}

    def memory_added(self) -> None:
        """The guest has more RAM (``machine.memory.regions``): for who keeps a list of it, as vhost does."""

    def event(self, arg: int) -> None:
        """The device's C half posted VMM_EVENT_DEVICE."""

    # --- driven by the machine ---

    def _counters(self) -> dict[str, int]:
        return self.counters()

    def _enter(self, state: str) -> None:
        if state not in _NEXT[self.state]:
            raise VmmError(f"{self.id}: cannot go from {self.state} to {state}")
        before, self.state = self.state, state
        if state == "activated":
            (self.resume if before == "paused" else self.activate)()
        elif state == "paused":
            self.pause()
        elif state == "reset":
            self.reset()
        else:
            self._teardown()

    def _setup(self) -> None:
        self.realize()

    def _teardown(self) -> None:
        self.remove()

    def _save(self) -> dict[str, Any]:
        return {"version": self.save_version, "device": self.save()}

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("version") != self.save_version:
            raise VmmError(f"{self.id}: saved by version {state.get('version')} of the device, this is "
                           f"{self.save_version}")
        self.restore(state["device"])


class MsixVector:
    """One MSI-X vector of a :class:`PciDevice`."""

    __slots__ = ("_device", "fd", "index")

    def __init__(self, device: PciDevice, index: int) -> None:
        from .machine.native import lib

        self._device, self.index = device, index
        #: an eventfd; writing it is signalling (for data planes in C, vhost, …). It belongs to the core.
        self.fd: int = lib.vmm_pci_msix_fd(device.pci, index)

    def signal(self) -> bool:
        """Raise the interrupt. False: the guest has MSI-X off, and it was dropped (:meth:`PciDevice.intx` is left)."""
        from .machine.native import lib

        return int(lib.vmm_pci_msix_signal(self._device.pci, self.index)) == 0


class PciDevice(Device):
    """A PCI function. Describe it with the class attributes and, in :meth:`realize`, ``add_bar`` & co.

    Config space, BAR moves, MSI-X table and masks are the core's, served in C.
    """

    vendor_id = 0x1AF4
    device_id = 0
    #: base class, sub-class, programming interface: 0xff0000 is "does not fit a class"
    class_code = 0xFF0000
    revision = 0
    subsystem_vendor_id = 0
    subsystem_id = 0
    #: the function has an INTA pin, see :meth:`intx`
    interrupt_pin = False

    pci: Any  # struct vmm_pci_dev *
    msix: list[MsixVector]
    _maps: Mapping[int, RegisterMap] = {}

    def add_bar(self, index: int, size: int, read: Callable[[int, int], int] | None = None,
                write: Callable[[int, int, int], None] | None = None, *, prefetchable: bool = False,
                is64: bool = False, io: bool = False, c_handler: tuple[Any, Any] | None = None) -> None:
        """Base address register `index` of `size` bytes (a power of two).

        read(offset, size) -> value and write(offset, size, value) are called on vCPU threads;
        `c_handler` is a pair (vmm_io_fn, opaque) of C pointers instead. Raises VmmError.
        """
        from .machine.bus import Handler
        from .machine.native import ffi, lib
        from .machine.pci import BAR_64, BAR_IO, BAR_PREFETCH

        flags = (BAR_IO if io else 0) | (BAR_64 if is64 else 0) | (BAR_PREFETCH if prefetchable else 0)
        if c_handler is None:
            handler = Handler(f"{self.id} BAR {index}", read, write)
            self._handlers.append(handler)
            c_handler = lib.vmm_py_io, handler.c_opaque
        else:
            c_handler = ffi.cast("vmm_io_fn", c_handler[0]), ffi.cast("void *", c_handler[1])
        err = lib.vmm_pci_add_bar(self.pci, index, size, flags, *c_handler)
        if err:
            raise VmmError(f"{self.id}: BAR {index} of {size} bytes is not possible")
        self._bars.append((index, size, flags))

    def add_registers(self, bar: int, registers: type[Map], reset: Mapping[str, int] | None = None, *,
                      prefetchable: bool = False, is64: bool = False, io: bool = False) -> Map:
        """Base address register `bar` that holds a register map (:mod:`vmmcore.registers`); the map.

        Handlers are methods of this device: ``on_write_NAME(value)``, ``on_read_NAME()``. `reset`: reset values
        that differ from the declared ones; the rest as in :meth:`add_bar`. The values are saved, restored and reset
        with the device, before its own restore() and reset(). Raises VmmError.
        """
        made = registers(self, reset)
        self.add_bar(bar, made.bar_size(), made.read, made.write, prefetchable=prefetchable, is64=is64, io=io)
        self._maps = {**self._maps, bar: made}
        return made

    def add_capability(self, id: int, body: bytes, writable: bytes | None = None) -> int:
        """Append a PCI capability (without its two header bytes); returns its offset.

        `writable` is a mask over `body` of bits that the guest may change.
        """
        from .machine.native import ffi, lib

        mask = ffi.NULL if writable is None else writable
        at: int = lib.vmm_pci_add_cap(self.pci, id, body, mask, len(body))
        if at < 0:
            raise VmmError(f"{self.id}: no room for PCI capability 0x{id:02x}")
        return at

    def set_config(self, offset: int, size: int, value: int, writable: int = 0, write_one_clears: int = 0) -> None:
        """Config space: `size` (1, 2 or 4) bytes at `offset`, with masks of the bits that the guest may write,
        and of those that it clears by writing ones (status bits)."""
        from .machine.native import lib

        if lib.vmm_pci_set(self.pci, offset, size, value, writable, write_one_clears):
            raise VmmError(f"{self.id}: no {size} bytes at config offset 0x{offset:x}")

    def get_config(self, offset: int, size: int) -> int:
        """What the guest reads there."""
        from .machine.native import lib

        return lib.vmm_pci_get(self.pci, offset, size)

    @property
    def pci_address(self) -> int:
        """The ``vmm_pci_dev *`` for a C half."""
        from .machine.native import ffi

        return int(ffi.cast("uintptr_t", self.pci))

    def watch_config(self, c_handler: tuple[Any, Any]) -> None:
        """Have a C function (a pair vmm_pci_access_fn, opaque) told what the guest does in config space."""
        from .machine.native import ffi, lib

        lib.vmm_pci_on_access(self.pci, ffi.cast("vmm_pci_access_fn", c_handler[0]), ffi.cast("void *", c_handler[1]))

    def add_msix(self, bar: int, vectors: int, table: int | None = None, pba: int | None = None) -> None:
        """MSI-X with `vectors` vectors; table and PBA at offsets of `bar`, by default in a BAR of their own."""
        from .machine.native import lib

        if table is None or pba is None:
            table, pba = 0, -(-vectors * 16 // 8) * 8
            size = 4096
            while size < pba + (vectors + 63) // 64 * 8:
                size *= 2
            self.add_bar(bar, size)
        if lib.vmm_pci_add_msix(self.pci, bar, table, pba, vectors):
            raise VmmError(f"{self.id}: MSI-X with {vectors} vectors does not fit BAR {bar}")
        self.msix = [MsixVector(self, n) for n in range(vectors)]

    def intx(self, level: bool) -> None:
        """Hold the interrupt line up or down (INTA; for a class with ``interrupt_pin``). Any thread."""
        from .machine.native import lib

        lib.vmm_pci_intx(self.pci, level)

    def bar_address(self, index: int) -> int | None:
        """Where BAR `index` decodes now (guest-physical address or port), None while it does not."""
        from .machine.native import lib

        at: int = lib.vmm_pci_bar_base(self.pci, index)
        return None if at == (1 << 64) - 1 else at

    def dma_read(self, address: int, size: int) -> bytes:
        """Read guest memory as a bus master. Raises VmmError outside of RAM."""
        return self.machine.memory.read(address, size)

    def dma_write(self, address: int, data: bytes) -> None:
        """Write guest memory as a bus master. Raises VmmError outside of RAM."""
        self.machine.memory.write(address, data)

    # --- driven by the machine ---

    def _setup(self) -> None:
        self._build()
        try:
            self._attach()
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        """There is no place for it: what it has got by now goes."""
        from .machine.bus import report

        self.state = "removed"
        try:
            self.remove()
        except Exception as error:
            report(f"{self.id}: remove", error)
        self._free_pci()

    def _build(self) -> None:
        """Everything but the place on the bus."""
        from .machine.native import ffi, lib

        vm, place = self.machine.vm, self.resources
        self._handlers: list[Any] = []
        self._bars: list[tuple[int, int, int]] = []
        self._windows: list[tuple[Any, int]] = []
        self.msix = []
        self.pci = lib.vmm_pci_new(vm)
        if self.pci == ffi.NULL:
            raise VmmError("out of memory")
        for offset, value in ((0x00, self.device_id << 16 | self.vendor_id),
                              (0x08, self.class_code << 8 | self.revision),
                              (0x2C, self.subsystem_id << 16 | self.subsystem_vendor_id)):
            lib.vmm_pci_set(self.pci, offset, 4, value, 0, 0)
        gsis = (self.machine.plan.get("pci") or {}).get("gsis")
        if self.interrupt_pin and gsis:
            lib.vmm_pci_set_intx(self.pci, gsis[place["slot"] % len(gsis)])
        try:
            self.realize()
        except BaseException:
            self._free_pci()
            raise
        try:
            if self._maps:
                from .registers import check_handlers

                check_handlers(self, list(self._maps.values()))
            self._place(place.get("segment", 0))
        except BaseException:
            self._abandon()
            raise

    def _attach(self) -> None:
        from .machine.native import check, lib

        place = self.resources
        check(self.machine.vm, lib.vmm_pci_attach(self.pci, place.get("segment", 0), place["slot"]))

    def _place(self, segment_id: int) -> None:
        """Give each BAR its first address."""
        from .machine.native import lib

        segment = self.machine.segments[segment_id]
        for index, size, flags in self._bars:
            window, at = segment.address(flags, size)
            self._windows.append((window, at))
            lib.vmm_pci_bar_first(self.pci, index, at)

    def _enter(self, state: str) -> None:
        if state == "reset":
            for regs in self._maps.values():
                regs.reset()
        super()._enter(state)

    def _teardown(self) -> None:
        from .machine.native import lib

        lib.vmm_pci_detach(self.pci)
        try:
            self.remove()
        finally:
            self._free_pci()

    def _free_pci(self) -> None:
        from .machine.native import lib

        for window, at in self._windows:
            window.give(at)
        lib.vmm_pci_free(self.pci)
        self.pci, self._handlers, self._windows = None, [], []

    def _save(self) -> dict[str, Any]:
        from .machine.native import ffi, lib

        buffer = ffi.new("uint8_t[]", 4096 + 16 * 2048)
        size = lib.vmm_pci_save(self.pci, buffer, len(buffer))
        state = {**super()._save(), "pci": bytes(ffi.buffer(buffer, size))}
        if self._maps:
            state["registers"] = {f"bar{bar}": regs.save() for bar, regs in self._maps.items()}
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        from .machine.native import lib

        saved = state.get("pci", b"")
        if lib.vmm_pci_restore(self.pci, saved, len(saved)):
            raise VmmError(f"{self.id}: the saved PCI state is of another device")
        for bar, regs in self._maps.items():
            regs.restore(state.get("registers", {}).get(f"bar{bar}", {}))
        super()._restore(state)
