# SPDX-License-Identifier: Apache-2.0
"""Virtqueues as a driver sees them (virtio 1.2 §2.7 split, §2.8 packed), in a test machine's guest memory."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmmcore.machine.memory import Memory

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15  # packed descriptors' flags
ENABLE, DISABLE, DESC = 0, 1, 2  # packed event suppression

#: a piece of a request: (guest-physical address, bytes, whether the device writes it)
Piece = tuple[int, int, bool]


class Token:
    """A request that was made available.

    id      its head's index (split) or buffer id (packed)
    slots   ring descriptors that it takes
    length  bytes that the device says it wrote; None: not given back yet
    """

    def __init__(self, id: int, slots: list[int], pieces: Sequence[Piece]) -> None:
        self.id, self.slots, self.pieces = id, slots, list(pieces)
        self.length: int | None = None

    @property
    def done(self) -> bool:
        return self.length is not None


class DriverQueue:
    """A virtqueue's driver half; :class:`SplitQueue` or :class:`PackedQueue`.

    The areas are at ``desc``, ``driver`` (avail) and ``device`` (used), guest-physical. For malformed cases
    write them with ``write_desc()`` and friends, or any byte through ``driver.memory``.
    """

    packed = False

    def __init__(
        self, memory: Memory, index: int, size: int, areas: tuple[int, int, int], event_idx: bool, in_order: bool
    ) -> None:
        self.memory, self.index, self.size = memory, index, size
        self.desc, self.driver, self.device = areas
        self.event_idx, self.in_order = event_idx, in_order
        self.notify_address = 0
        self.pending: dict[int, Token] = {}
        self.free: deque[int] = deque(range(size))
        self._table = memory.view(self.desc, 16 * size)
        lengths = self.area_sizes(size)
        for at, length in zip(areas, lengths, strict=True):
            memory.write(at, bytes(length))
        self._driver = memory.view(self.driver, lengths[1]).cast("H")
        self._device = memory.view(self.device, lengths[2]).cast("H")

    @staticmethod
    def area_sizes(size: int) -> tuple[int, int, int]:
        """Bytes of the three areas of a queue of `size` descriptors."""
        raise NotImplementedError

    def add(self, pieces: Sequence[Piece], indirect: int | None = None) -> Token:
        """Make a request available. `indirect`: put the descriptors into a table at that address.

        The device is not notified. Raises AssertionError when the ring has no room.
        """
        raise NotImplementedError

    def collect(self) -> list[Token]:
        """Take back what the device has given back since, in the ring's order."""
        raise NotImplementedError

    def wants_kick(self) -> bool:
        """Whether the device asked to be notified of what was added since the last call."""
        raise NotImplementedError

    def want_interrupts(self, on: bool = True) -> None:
        """Ask for an interrupt with the next request that is given back, or for none."""
        raise NotImplementedError

    def _finish(self, token_id: int, length: int) -> list[Token]:
        """With IN_ORDER one entry may stand for all before it (§2.7.11)."""
        assert token_id in self.pending, f"queue {self.index}: the device gives back id {token_id}, which it has not"
        ready = []
        for pending_id in list(self.pending):
            if pending_id != token_id and not self.in_order:
                continue
            token = self.pending.pop(pending_id)
            token.length = length if pending_id == token_id else 0
            ready.append(token)
            if pending_id == token_id:
                break
        return ready

    @staticmethod
    def table(pieces: Sequence[Piece], packed: bool) -> bytes:
        """The bytes of an indirect table for `pieces`."""
        out = b""
        for n, (address, length, write) in enumerate(pieces):
            flags = WRITE if write else 0
            if packed:
                out += struct.pack("<QIHH", address, length, 0, flags)
            else:
                last = n + 1 == len(pieces)
                out += struct.pack("<QIHH", address, length, flags | (0 if last else NEXT), 0 if last else n + 1)
        return out


def _passed(event: int, new: int, old: int) -> bool:
    """§2.7.10: is `event` in what was added between old and new (16 bits)?"""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


class SplitQueue(DriverQueue):
    """avail_idx, used_idx: the two indices, free-running 16 bits, as they are in memory."""

    def __init__(
        self, memory: Memory, index: int, size: int, areas: tuple[int, int, int], event_idx: bool, in_order: bool
    ) -> None:
        super().__init__(memory, index, size, areas, event_idx, in_order)
        self.last_used = 0
        self._kicked = 0

    @staticmethod
    def area_sizes(size: int) -> tuple[int, int, int]:
        return 16 * size, 6 + 2 * size, 6 + 8 * size

    # --- raw ---

    def write_desc(self, n: int, address: int, length: int, flags: int = 0, next: int = 0) -> None:
        struct.pack_into("<QIHH", self._table, 16 * n, address & (1 << 64) - 1, length, flags, next)

    @property
    def avail_flags(self) -> int:
        return self._driver[0]

    @avail_flags.setter
    def avail_flags(self, value: int) -> None:
        self._driver[0] = value

    @property
    def avail_idx(self) -> int:
        return self._driver[1]

    @avail_idx.setter
    def avail_idx(self, value: int) -> None:
        self._driver[1] = value & 0xFFFF

    def set_avail(self, n: int, head: int) -> None:
        """Entry n of the avail ring."""
        self._driver[2 + n % self.size] = head

    def make_available(self, head: int) -> None:
        """Append `head` to the avail ring."""
        self.set_avail(self.avail_idx, head)
        self.avail_idx += 1

    @property
    def used_event(self) -> int:
        return self._driver[2 + self.size]

    @used_event.setter
    def used_event(self, value: int) -> None:
        self._driver[2 + self.size] = value & 0xFFFF

    @property
    def used_flags(self) -> int:
        return self._device[0]

    @property
    def used_idx(self) -> int:
        return self._device[1]

    @property
    def avail_event(self) -> int:
        return self._device[2 + 4 * self.size]

    def used(self, n: int) -> tuple[int, int]:
        """(id, length) of entry n of the used ring."""
        found: tuple[int, int] = struct.unpack("<II", self.memory.read(self.device + 4 + 8 * (n % self.size), 8))
        return found

    # --- well-formed ---

    def add(self, pieces: Sequence[Piece], indirect: int | None = None) -> Token:
        assert pieces, "a request of no pieces"
        wanted = 1 if indirect is not None else len(pieces)
        assert len(self.free) >= wanted, f"queue {self.index} is full"
        slots = [self.free.popleft() for _ in range(wanted)]
        if indirect is not None:
            table = self.table(pieces, packed=False)
            self.memory.write(indirect, table)
            self.write_desc(slots[0], indirect, len(table), INDIRECT)
        else:
            for n, (address, length, write) in enumerate(pieces):
                more = n + 1 < len(pieces)
                flags = (WRITE if write else 0) | (NEXT if more else 0)
                self.write_desc(slots[n], address, length, flags, slots[n + 1] if more else 0)
        token = Token(slots[0], slots, pieces)
        self.pending[token.id] = token
        self.make_available(token.id)
        return token

    def collect(self) -> list[Token]:
        ready = []
        while self.last_used != self.used_idx:
            done = self._finish(*self.used(self.last_used))
            for token in done:
                self.free.extend(token.slots)
            self.last_used = (self.last_used + len(done)) & 0xFFFF
            ready += done
        return ready

    def wants_kick(self) -> bool:
        old, self._kicked = self._kicked, self.avail_idx
        if self.event_idx:
            return _passed(self.avail_event, self._kicked, old)
        return not self.used_flags & 1

    def want_interrupts(self, on: bool = True) -> None:
        if self.event_idx:
            self.used_event = self.last_used if on else self.last_used - 1
        else:
            self.avail_flags = 0 if on else 1


class PackedQueue(DriverQueue):
    """next_avail, next_used with avail_wrap, used_wrap: where the driver is in the ring."""

    packed = True

    def __init__(
        self, memory: Memory, index: int, size: int, areas: tuple[int, int, int], event_idx: bool, in_order: bool
    ) -> None:
        super().__init__(memory, index, size, areas, event_idx, in_order)
        self.next_avail = self.next_used = self.room = 0
        self.avail_wrap = self.used_wrap = True
        self.room = size
        self._added = 0
        self._flags = self._table.cast("H")

    @staticmethod
    def area_sizes(size: int) -> tuple[int, int, int]:
        return 16 * size, 4, 4

    # --- raw ---

    def write_desc(self, n: int, address: int, length: int, id: int = 0, flags: int | None = None) -> None:
        """Descriptor n; `flags` None leaves those as they are."""
        struct.pack_into("<QIH", self._table, 16 * n, address & (1 << 64) - 1, length, id)
        if flags is not None:
            self.set_flags(n, flags)

    def set_flags(self, n: int, flags: int) -> None:
        self._flags[8 * n + 7] = flags

    def read_desc(self, n: int) -> tuple[int, int, int, int]:
        """(address, length, id, flags) of descriptor n."""
        found: tuple[int, int, int, int] = struct.unpack_from("<QIHH", self._table, 16 * n)
        return found

    def available(self, wrap: bool | None = None) -> int:
        """The two flags that make a descriptor available in this lap (or that of `wrap`)."""
        return AVAIL if (self.avail_wrap if wrap is None else wrap) else USED

    @property
    def driver_event(self) -> tuple[int, int]:
        """(offset and wrap counter, flags) that the driver wrote."""
        return self._driver[0], self._driver[1]

    @driver_event.setter
    def driver_event(self, value: tuple[int, int]) -> None:
        self._driver[0], self._driver[1] = value

    @property
    def device_event(self) -> tuple[int, int]:
        """(offset and wrap counter, flags) that the device wrote."""
        return self._device[0], self._device[1]

    # --- well-formed ---

    def add(self, pieces: Sequence[Piece], indirect: int | None = None) -> Token:
        assert pieces, "a request of no pieces"
        wanted = 1 if indirect is not None else len(pieces)
        assert self.room >= wanted, f"queue {self.index} is full"
        entries = [(a, n, WRITE if w else 0) for a, n, w in pieces]
        if indirect is not None:
            table = self.table(pieces, packed=True)
            self.memory.write(indirect, table)
            entries = [(indirect, len(table), INDIRECT)]
        token = Token(self.free.popleft(), [], pieces)
        first, first_flags = self.next_avail, 0
        for n, (address, length, flags) in enumerate(entries):
            at = self.next_avail
            flags |= self.available() | (NEXT if n + 1 < wanted else 0)
            if n:
                self.write_desc(at, address, length, token.id, flags)
            else:  # the first one's flags make all of them visible
                self.write_desc(at, address, length, token.id)
                first_flags = flags
            token.slots.append(at)
            self.next_avail = (at + 1) % self.size
            if not self.next_avail:
                self.avail_wrap = not self.avail_wrap
        self.room -= wanted
        self._added += wanted
        self.pending[token.id] = token
        self.set_flags(first, first_flags)
        return token

    def is_used(self, n: int, wrap: bool) -> bool:
        flags = self._flags[8 * n + 7]
        return bool(flags & AVAIL) == bool(flags & USED) == wrap

    def collect(self) -> list[Token]:
        ready = []
        while self.pending and self.is_used(self.next_used, self.used_wrap):
            _, length, token_id, flags = self.read_desc(self.next_used)
            for token in self._finish(token_id, length if flags & WRITE else 0):
                self.free.append(token.id)
                self.room += len(token.slots)
                self.next_used += len(token.slots)
                if self.next_used >= self.size:
                    self.next_used -= self.size
                    self.used_wrap = not self.used_wrap
                ready.append(token)
        return ready

    def wants_kick(self) -> bool:
        added, self._added = self._added, 0
        place, flags = self.device_event
        if flags & 3 != DESC:
            return flags & 3 == ENABLE
        event, new = place & 0x7FFF, self.next_avail
        if bool(place >> 15) != self.avail_wrap:
            event -= self.size
        return (new - event - 1) & 0xFFFF < added

    def want_interrupts(self, on: bool = True) -> None:
        if on and self.event_idx:
            self.driver_event = (self.next_used | self.used_wrap << 15, DESC)
        else:
            self.driver_event = (0, ENABLE if on else DISABLE)
