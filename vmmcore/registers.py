# SPDX-License-Identifier: Apache-2.0
"""Registers of a PCI device, declared rather than decoded by hand::

    class Regs(RegisterMap):
        ID = Register(0x00, access="ro", reset=0x1234, doc="who I am")
        CTRL = Register(0x04, writable=0x0F, doc="control")
        ENABLE = CTRL.bit(0)
        STATUS = Register(0x08, writable=0, write_one_clears=0xFF, doc="what happened")

    class Device(PciDevice):
        def realize(self):
            self.regs = self.add_registers(0, Regs)

        def on_write_CTRL(self, value):   # found by its name
            if self.regs.ENABLE: ...

What a guest may do at a register is in its declaration, so handlers get sane values only. The values are part of
the device's saved state without a line of its own.
"""

from __future__ import annotations

from _thread import RLock

from .errors import VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, ClassVar, Self, overload

ANY_SIZE = (1, 2, 4, 8)


class Register:
    """One register; read on an instance of the map it is the value, which the device may set to anything.

    offset, size        bytes; size is 1, 2, 4 or 8, the offset a multiple of it
    reset               value at first and after a reset
    access              "rw", "ro" (writes do nothing) or "wo" (reads as unknown, never stored)
    writable            mask of the bits that the guest may set and clear (default: all that no other rule is about)
    write_one_clears    mask of the bits that the guest clears by writing ones
    sizes               of accesses that it answers to, bytes (default: the map's). Others read as unknown, and write
                        nothing. A smaller access than the register is one of a part of it: (4, 8) for a register
                        of 8 bytes lets the guest use halves
    """

    name = ""

    def __init__(self, offset: int, size: int = 4, *, reset: int = 0, access: str = "rw", writable: int | None = None,
                 write_one_clears: int = 0, sizes: Sequence[int] | None = None, doc: str = "") -> None:
        if size not in ANY_SIZE or offset < 0 or offset % size:
            raise ValueError(f"register at 0x{offset:x}: size {size} with this offset is not possible")
        self.offset, self.size, self.doc = offset, size, doc
        self.mask = (1 << 8 * size) - 1
        if access not in ("rw", "ro", "wo"):
            raise ValueError(f"register at 0x{offset:x}: access {access!r} is not rw, ro or wo")
        self.access, self.reset = access, reset
        self.write_one_clears = write_one_clears
        self.writable = (0 if access == "ro" else self.mask & ~write_one_clears) if writable is None else writable
        self.sizes = None if sizes is None else tuple(sizes)
        if not 0 <= reset <= self.mask or (self.writable | write_one_clears) & ~self.mask:
            raise ValueError(f"register at 0x{offset:x}: reset value or mask beyond its {size} bytes")
        if self.writable & write_one_clears:
            raise ValueError(f"register at 0x{offset:x}: a bit is both writable and cleared by a one")
        if access == "ro" and (self.writable or write_one_clears):
            raise ValueError(f"register at 0x{offset:x}: read-only with writable bits")

    def bit(self, number: int) -> Field:
        """A field of one bit."""
        return Field(self, number, 1)

    def bits(self, low: int, width: int) -> Field:
        """A field of `width` bits from bit `low` on."""
        return Field(self, low, width)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    if TYPE_CHECKING:
        @overload
        def __get__(self, regs: None, owner: type) -> Self: ...
        @overload
        def __get__(self, regs: RegisterMap, owner: type) -> int: ...
        def __get__(self, regs: RegisterMap | None, owner: type) -> Self | int: ...
    else:
        def __get__(self, regs, owner):
            return self if regs is None else regs._values[self.name]

    def __set__(self, regs: RegisterMap, value: int) -> None:
        regs._values[self.name] = value & self.mask


class Field:
    """Some bits of a register, by a name of their own; made by :meth:`Register.bit` and :meth:`Register.bits`."""

    def __init__(self, register: Register, low: int, width: int) -> None:
        self.register, self.low, self.mask = register, low, (1 << width) - 1
        if width < 1 or low < 0 or self.mask << low > register.mask:
            raise ValueError(f"register at 0x{register.offset:x}: no {width} bits from bit {low} on")

    if TYPE_CHECKING:
        @overload
        def __get__(self, regs: None, owner: type) -> Self: ...
        @overload
        def __get__(self, regs: RegisterMap, owner: type) -> int: ...
        def __get__(self, regs: RegisterMap | None, owner: type) -> Self | int: ...
    else:
        def __get__(self, regs, owner):
            return self if regs is None else regs._values[self.register.name] >> self.low & self.mask

    def __set__(self, regs: RegisterMap, value: int) -> None:
        with regs.lock:
            old = regs._values[self.register.name]
            regs._values[self.register.name] = old & ~(self.mask << self.low) | (value & self.mask) << self.low


class RegisterMap:
    """The registers of one BAR, and their values. Subclass it and declare :class:`Register` attributes.

    Handlers are methods of the device: ``on_read_NAME()`` returns what the guest reads, or None for the stored
    value; ``on_write_NAME(value)`` comes after the value has been stored, and returns False to have the old one back.
    ``value`` has the bits that the guest may write (bytes of a "rw" register that the access left out as they were)
    and its ones for bits that are cleared by ones.

    Handlers run on vCPU threads, one at a time: the map's ``lock`` is held. Code elsewhere that changes more than
    one value, or depends on one, takes it too: ``with self.regs.lock:``.
    """

    #: what bytes read that no register answers for: -1 is all ones, as on an empty bus; 0 is zeros
    unknown = -1
    #: sizes of accesses, bytes, for registers that do not say
    sizes: Sequence[int] = ANY_SIZE
    #: size of the BAR in bytes, a power of two; 0: as small as possible, 4096 at least
    size = 0

    #: in the order of their offsets
    registers: ClassVar[tuple[Register, ...]] = ()

    def __init_subclass__(cls, **how: Any) -> None:
        super().__init_subclass__(**how)
        found = {name: item for base in reversed(cls.__mro__) for name, item in vars(base).items()
                 if isinstance(item, Register)}
        cls.registers = tuple(sorted((r for n, r in found.items() if getattr(cls, n) is r), key=lambda r: r.offset))
        end = 0
        for register in cls.registers:
            if register.offset < end:
                raise ValueError(f"{cls.__name__}.{register.name} overlaps the register before it")
            end = register.offset + register.size

    def __init__(self, device: Any, reset: Mapping[str, int] | None = None) -> None:
        """`reset`: reset values that differ from the declared ones (an option, a fuse)."""
        self.lock = RLock()
        self._values: dict[str, int] = {}
        self._reset = {register.name: register.reset for register in self.registers}
        for name, value in (reset or {}).items():
            if name not in self._reset:
                raise VmmError(f"{type(self).__name__} has no register {name}")
            self._reset[name] = value & getattr(type(self), name).mask
        self._on_read: dict[str, Callable[[], int | None]] = {}
        self._on_write: dict[str, Callable[[int], bool | None]] = {}
        for register in self.registers:
            for kind, handlers in (("read", self._on_read), ("write", self._on_write)):
                handler = getattr(device, f"on_{kind}_{register.name}", None)
                if handler is not None:
                    handlers[register.name] = handler
        self.reset()

    @classmethod
    def bar_size(cls) -> int:
        """Bytes of the BAR: a power of two."""
        size = cls.size or 4096
        while cls.registers and size < cls.registers[-1].offset + cls.registers[-1].size:
            size *= 2
        return size

    @classmethod
    def table(cls) -> str:
        """The registers as a Markdown table, for a README."""
        rows = [f"| 0x{r.offset:02x} | {r.name} | {r.size} | {r.access} | {r.doc} |" for r in cls.registers]
        return "\n".join(["| offset | name | bytes | access | meaning |", "|---|---|---|---|---|", *rows])

    def reset(self) -> None:
        """Every register back to its reset value. No handler is called."""
        with self.lock:
            self._values.update(self._reset)

    def save(self) -> dict[str, int]:
        """The values by name; not of read-only registers that are as they were at first: those are the code's."""
        with self.lock:
            return {r.name: self._values[r.name] for r in self.registers
                    if r.access == "rw" or self._values[r.name] != self._reset[r.name]}

    def restore(self, state: Mapping[str, int]) -> None:
        """Take up what :meth:`save` returned. A register that it does not know gets its reset value."""
        with self.lock:
            for register in self.registers:
                self._values[register.name] = int(state.get(register.name, self._reset[register.name])) & register.mask

    # --- accesses of the guest: what add_bar() gets ---

    def read(self, offset: int, size: int) -> int:
        """The value of `size` bytes at `offset`."""
        value = self.unknown
        with self.lock:
            for register in self.registers:
                at = 8 * (register.offset - offset)
                if at >= 8 * size or at <= -8 * register.size:
                    continue
                if register.access == "wo" or size not in (register.sizes or self.sizes):
                    continue
                handler = self._on_read.get(register.name)
                given = handler() if handler is not None else None
                held = (self._values[register.name] if given is None else given) & register.mask
                value = value & ~_shift(register.mask, at) | _shift(held, at)
        return value & ((1 << 8 * size) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes at `offset`."""
        lanes = (1 << 8 * size) - 1
        with self.lock:
            for register in self.registers:
                at = 8 * (register.offset - offset)
                if at >= 8 * size or at <= -8 * register.size:
                    continue
                if register.access == "ro" or size not in (register.sizes or self.sizes):
                    continue
                there = _shift(lanes, -at) & register.mask
                ones = _shift(value, -at) & there
                given = ones & (register.writable | register.write_one_clears)
                old = self._values[register.name]
                if register.access == "rw":
                    keep = old & ~(there & register.writable) & ~(ones & register.write_one_clears)
                    self._values[register.name] = keep | ones & register.writable
                    given |= old & register.writable & ~there
                handler = self._on_write.get(register.name)
                if handler is not None and handler(given) is False:
                    self._values[register.name] = old


def _shift(value: int, by: int) -> int:
    return value << by if by >= 0 else value >> -by


def check_handlers(device: Any, maps: Sequence[RegisterMap]) -> None:
    """Raise VmmError for a method of the device that looks like a handler and would never be called."""
    known: dict[str, str] = {}
    for regs in maps:
        for register in regs.registers:
            if register.name in known:
                raise VmmError(f"{device.id}: two registers are called {register.name}")
            known[register.name] = register.access
    for method in dir(type(device)):
        for kind, never in (("read", "wo"), ("write", "ro")):
            if method.startswith(f"on_{kind}_"):
                access = known.get(method[len(f"on_{kind}_"):])
                if access in (None, never):
                    problem = "there is no such register" if access is None else f"the register is {access!r}"
                    raise VmmError(f"{device.id}: {method}() is never called: {problem}")
