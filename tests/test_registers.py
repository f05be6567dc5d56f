# SPDX-License-Identifier: Apache-2.0
"""Register maps: what a guest's accesses do, by declaration."""

from __future__ import annotations

from typing import Any

import pytest

from vmmcore import PciDevice, Register, RegisterMap, VmmError


class Regs(RegisterMap):
    ID = Register(0x00, access="ro", reset=0xABCD)
    CTRL = Register(0x04, writable=0x0F, reset=0x80)
    ENABLE = CTRL.bit(0)
    MODE = CTRL.bits(1, 3)
    STATUS = Register(0x08, writable=0x100, write_one_clears=0xFF)
    BELL = Register(0x0C, access="wo")
    ADDRESS = Register(0x10, size=8, sizes=(4, 8))
    SMALL = Register(0x18, size=1)
    COUNT = Register(0x1C, access="ro")


class Board(PciDevice):
    """A device with its BAR kept here rather than given to a machine."""

    def add_bar(self, index: int, size: int, read: Any = None, write: Any = None, **how: Any) -> None:
        self.size, self.read, self.write = size, read, write

    def realize(self) -> None:
        self.heard: list[tuple[str, int]] = []
        self.reads = 0
        self.regs = self.add_registers(0, Regs, reset={"SMALL": 7})

    def on_write_CTRL(self, value: int) -> bool:
        self.heard.append(("CTRL", value))
        return value != 0x0C

    def on_write_STATUS(self, value: int) -> None:
        self.heard.append(("STATUS", value))

    def on_write_BELL(self, value: int) -> None:
        self.heard.append(("BELL", value))

    def on_read_COUNT(self) -> int:
        self.reads += 1
        return self.reads

    def on_read_SMALL(self) -> None:
        self.reads += 10


@pytest.fixture
def board() -> Board:
    machine: Any = None
    made = Board(machine, "board0")
    made.realize()
    return made


def test_reset_values_and_identity(board: Board) -> None:
    assert board.size == 4096
    assert [board.read(at, 4) for at in (0, 4, 8)] == [0xABCD, 0x80, 0]
    assert board.read(0x18, 1) == 7
    assert (board.regs.ID, board.regs.ENABLE, Regs.ID.offset) == (0xABCD, 0, 0)


def test_read_only_bits_stay(board: Board) -> None:
    board.write(0, 4, 5)
    assert board.read(0, 4) == 0xABCD
    board.write(4, 4, 0xFFFFFFFF)
    assert board.read(4, 4) == 0x8F
    assert board.heard == [("CTRL", 0x0F)]


def test_a_write_can_be_refused(board: Board) -> None:
    board.write(4, 4, 3)
    board.write(4, 4, 0x0C)
    assert board.read(4, 4) == 0x83
    assert board.heard == [("CTRL", 3), ("CTRL", 0x0C)]


def test_ones_clear(board: Board) -> None:
    board.regs.STATUS = 0x5A
    board.write(8, 4, 0x10A)
    assert board.read(8, 4) == 0x150
    board.write(8, 1, 0x50)  # the byte above is left as it was
    assert board.read(8, 4) == 0x100
    assert board.heard == [("STATUS", 0x10A), ("STATUS", 0x150)]


def test_write_only(board: Board) -> None:
    board.write(0x0C, 4, 9)
    assert board.heard == [("BELL", 9)]
    assert board.read(0x0C, 4) == 0xFFFFFFFF


def test_halves_of_a_wide_register(board: Board) -> None:
    board.write(0x14, 4, 0x11223344)
    board.write(0x10, 4, 0x55667788)
    assert board.regs.ADDRESS == board.read(0x10, 8) == 0x1122334455667788
    assert board.read(0x14, 4) == 0x11223344
    board.write(0x10, 2, 0)  # of a size that it does not answer to
    assert board.read(0x10, 2) == 0xFFFF
    assert board.regs.ADDRESS == 0x1122334455667788


def test_one_access_over_two_registers(board: Board) -> None:
    assert board.read(0, 8) == 0x80_0000ABCD
    board.write(0, 8, 0x3_00000000)
    assert board.regs.CTRL == 0x83
    assert board.read(0x18, 4) == 0xFFFFFF07  # three bytes are nobody's


def test_parts(board: Board) -> None:
    assert (board.read(1, 1), board.read(2, 2), board.read(3, 2)) == (0xAB, 0, 0x8000)


def test_handlers_of_reads(board: Board) -> None:
    assert [board.read(0x1C, 4), board.read(0x1C, 4)] == [1, 2]
    assert board.read(0x18, 1) == 7
    assert board.reads == 12


def test_fields(board: Board) -> None:
    board.regs.MODE = 0b11101
    assert (board.regs.CTRL, board.regs.MODE, board.regs.ENABLE) == (0x8A, 0b101, 0)
    board.write(4, 1, 1)
    assert (board.regs.MODE, board.regs.ENABLE) == (0, 1)


@pytest.mark.parametrize(("unknown", "value"), [(-1, 0xFFFFFFFF), (0, 0)])
def test_nobodys_offset(unknown: int, value: int) -> None:
    kind = type("Other", (Regs,), {"unknown": unknown})
    regs = kind(None)
    assert regs.read(0x800, 4) == value
    regs.write(0x800, 4, 1)


def test_a_map_of_one_size() -> None:
    class Words(RegisterMap):
        sizes = (4,)
        A = Register(0, reset=1)
        B = Register(4, reset=2, sizes=(2, 4))

    regs = Words(None)
    regs.write(0, 2, 9)
    regs.write(0, 8, 9)
    assert (regs.read(0, 4), regs.read(0, 1), regs.read(4, 2), regs.read(0, 8)) == (1, 0xFF, 2, (1 << 64) - 1)


def test_saved_and_restored(board: Board) -> None:
    board.write(4, 4, 3)
    board.regs.COUNT = 5
    state = board.regs.save()
    assert state == {"CTRL": 0x83, "STATUS": 0, "ADDRESS": 0, "SMALL": 7, "COUNT": 5}
    board.regs.reset()
    assert board.regs.CTRL == 0x80
    board.regs.restore(state)
    assert board.regs.CTRL == 0x83
    board.regs.restore({"CTRL": 1, "GONE": 2})
    assert (board.regs.CTRL, board.regs.SMALL) == (1, 7)


def test_inherited_and_replaced() -> None:
    class More(Regs):
        CTRL = Register(0x20)
        EXTRA = Register(0x0FFE, size=2)

    class Most(More):
        LAST = Register(0x1000)

    assert [r.name for r in More.registers][-2:] == ["CTRL", "EXTRA"]
    assert Most(None).read(4, 4) == 0xFFFFFFFF
    assert (More.bar_size(), Most.bar_size()) == (4096, 8192)


@pytest.mark.parametrize(
    "how",
    [{"offset": 2}, {"offset": 0, "size": 3}, {"offset": 0, "reset": 1 << 32}, {"offset": 0, "access": "w"},
     {"offset": 0, "writable": 1, "write_one_clears": 1}, {"offset": 0, "access": "ro", "writable": 1},
     {"offset": -4}, {"offset": 0, "writable": 1 << 32}],
)  # fmt: skip
def test_impossible_registers(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="register at"):
        Register(**how)


def test_overlap_and_unknown_reset() -> None:
    with pytest.raises(ValueError, match=r"Two\.B overlaps"):
        type("Two", (RegisterMap,), {"A": Register(0, size=8), "B": Register(4)})
    with pytest.raises(ValueError, match="no 2 bits"):
        Register(0).bits(31, 2)
    with pytest.raises(VmmError, match="NOPE"):
        Regs(None, {"NOPE": 1})


@pytest.mark.parametrize(
    ("method", "why"),
    [("on_write_CRTL", "no such register"), ("on_write_ID", "'ro'"), ("on_read_BELL", "'wo'")],
)
def test_a_handler_that_nothing_calls_is_told(method: str, why: str) -> None:
    from vmmcore.registers import check_handlers

    made = type("Odd", (Board,), {method: lambda self: None})(None, "odd0")
    made.realize()
    with pytest.raises(VmmError, match=rf"odd0: {method}.*{why}"):
        check_handlers(made, [made.regs])


def test_table() -> None:
    assert "| 0x10 | ADDRESS | 8 | rw |  |" in Regs.table()
