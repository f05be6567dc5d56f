# SPDX-License-Identifier: Apache-2.0
"""What a driver sees of the chip (PC16550D data sheet, section 8), and what Linux' 8250 driver relies on."""

from __future__ import annotations

import random

import pytest
from uart_model import DLL, DLM, FCR, IER, IIR, LCR, LSR, MCR, MSR, RBR, SCR, THR, Uart

NONE, THRE_ID, RDA_ID, TIMEOUT_ID, RLS_ID, MS_ID = 0x01, 0x02, 0x04, 0x0C, 0x06, 0x00
RDA, THRE, RLS, MS = 1, 2, 4, 8
EMPTY = 0x60  # LSR: THRE and TEMT


def test_after_reset(uart: Uart) -> None:
    assert uart.read(IER) == 0
    assert uart.read(IIR) == NONE
    assert uart.read(LCR) == 0
    assert uart.read(MCR) == 0
    assert uart.read(LSR) == EMPTY
    assert uart.read(MSR) == 0xB0  # CTS, DSR, DCD: a peer is there
    assert uart.edges() == 0


def test_registers_that_only_store(uart: Uart) -> None:
    uart.write(SCR, 0xA5)
    uart.write(LCR, 0x1B)
    assert (uart.read(SCR), uart.read(LCR)) == (0xA5, 0x1B)
    uart.write(IER, 0xFF)
    uart.write(MCR, 0xEF)
    assert uart.read(IER) == 0x0F, "a 16550A has no IER bits 4..7; Linux would take it for another chip"
    assert uart.read(MCR) == 0x0F


def test_divisor_latch_hides_data_and_ier(uart: Uart) -> None:
    uart.write(IER, 0x05)
    uart.write(LCR, 0x83)
    uart.write(DLL, 0x0C)
    uart.write(DLM, 0x01)
    assert (uart.read(DLL), uart.read(DLM)) == (0x0C, 0x01)
    uart.write(LCR, 0x03)
    assert uart.read(IER) == 0x05
    assert uart.sent == b"" and uart.read(RBR) == 0


def test_output_needs_no_set_up_and_stays_in_order(uart: Uart) -> None:
    for byte in b"hello":
        assert uart.read(LSR) & EMPTY == EMPTY
        uart.write(THR, byte)
    assert uart.sent == b"hello"


def test_fifo_enable_shows_in_iir_without_wider_fifo_bits(uart: Uart) -> None:
    uart.write(FCR, 0x01)
    assert uart.read(IIR) == 0xC0 | NONE
    uart.write(FCR, 0x21)  # the 64-byte bit of a 16750
    assert uart.read(IIR) == 0xC0 | NONE
    uart.write(FCR, 0x00)
    assert uart.read(IIR) == NONE


# --- transmitter interrupts ----------------------------------------------------


def test_enabling_thre_while_empty_interrupts_each_time(uart: Uart) -> None:
    """Linux starts to send this way, and checks for it when it opens the port (UART_BUG_THRE)."""
    for _ in range(2):
        uart.write(IER, THRE)
        assert uart.edges() == 1
        assert uart.read(IIR) == THRE_ID
        assert uart.read(IIR) == NONE, "reading IIR acknowledges THRE"
        uart.write(IER, 0)
    assert uart.edges() == 0


def test_rewriting_ier_is_no_new_thre(uart: Uart) -> None:
    uart.write(IER, THRE)
    uart.read(IIR)
    uart.edges()
    uart.write(IER, THRE | RDA)
    assert uart.read(IIR) == NONE and uart.edges() == 0


def test_sending_announces_empty_again(uart: Uart) -> None:
    uart.write(FCR, 0x01)
    uart.write(IER, THRE)
    sent = bytes(range(64))
    left = list(sent)
    handled = 0
    while uart.edges():  # an interrupt handler that sends 16 bytes each time
        handled += 1
        assert uart.read(IIR) == 0xC0 | THRE_ID
        for byte in left[:16]:
            uart.write(THR, byte)
        del left[:16]
    assert uart.sent == sent
    assert handled == 5, "one interrupt to start and one per burst, not one per byte"


def test_polled_output_between_interrupts_loses_no_thre(uart: Uart) -> None:
    """Linux' console: saves IER, clears it, polls, restores it."""
    uart.write(IER, THRE)
    uart.edges()
    uart.write(IER, 0)
    uart.write(THR, 65)
    uart.read(LSR)
    uart.write(IER, THRE)
    assert uart.edges() == 1 and uart.read(IIR) == THRE_ID


# --- receiver ----------------------------------------------------------------------


def test_input_interrupts_and_is_read_in_order(uart: Uart) -> None:
    uart.write(FCR, 0x01)
    uart.write(IER, RDA)
    assert uart.receive(b"abc") == 3
    assert uart.edges() == 1
    assert uart.read(IIR) & 0x0F == RDA_ID
    got = bytearray()
    while uart.read(LSR) & 1:
        got.append(uart.read(RBR))
    assert got == b"abc" and uart.read(IIR) & 0x0F == NONE
    assert uart.receive(b"d") == 1 and uart.edges() == 1


def test_input_before_the_interrupt_is_enabled(uart: Uart) -> None:
    uart.receive(b"x")
    assert uart.edges() == 0
    uart.write(IER, RDA)
    assert uart.edges() == 1


@pytest.mark.parametrize(("bits", "level"), [(0x00, 1), (0x40, 4), (0x80, 8), (0xC0, 14)])
def test_trigger_level(uart: Uart, bits: int, level: int) -> None:
    uart.write(FCR, 0x01 | bits)
    uart.write(IER, RDA)
    for count in range(1, 17):
        assert uart.receive(b"x") == 1
        assert uart.read(IIR) & 0x0F == (RDA_ID if count >= level else TIMEOUT_ID)
    assert uart.edges() == 1, "one condition, one edge"


@pytest.mark.parametrize(("fcr", "size"), [(0x00, 1), (0x01, 16)])
def test_input_takes_what_fits(uart: Uart, fcr: int, size: int) -> None:
    uart.write(FCR, fcr)
    assert uart.wants_input()
    assert uart.receive(bytes(range(100))) == size
    assert uart.receive(b"x") == 0
    for expected in range(size):
        assert not uart.wants_input()
        assert uart.read(RBR) == expected
    assert uart.wants_input()
    assert uart.read(LSR) & 0x02 == 0, "the host waits, so nothing is overrun"


def test_fifo_reset_and_toggle_empty_the_receiver(uart: Uart) -> None:
    for fcr in (0x03, 0x00, 0x01):  # reset bit; toggles of the enable bit
        uart.write(FCR, 0x01)
        uart.receive(b"abc")
        uart.write(FCR, 0x00 if fcr == 0x01 else 0x01)
        uart.receive(b"z")
        uart.write(FCR, fcr)
        assert uart.read(LSR) & 1 == 0


# --- priorities, loopback, modem ------------------------------------------------------


def test_priority_of_interrupts(uart: Uart) -> None:
    uart.write(MCR, 0x10)  # loopback; CTS, DSR and DCD fall
    uart.write(THR, 1)
    uart.write(THR, 2)  # overrun
    uart.write(IER, 0x0F)
    assert uart.read(IIR) == RLS_ID
    assert uart.read(LSR) == EMPTY | 0x03
    assert uart.read(LSR) == EMPTY | 0x01, "reading LSR clears the error"
    assert uart.read(IIR) == RDA_ID
    assert uart.read(RBR) == 2, "without FIFOs the newer byte replaces the older"
    assert uart.read(IIR) == THRE_ID
    assert uart.read(IIR) == MS_ID
    assert uart.read(MSR) == 0x0B
    assert uart.read(IIR) == NONE
    assert uart.sent == b"", "loopback sends nothing"


def test_loopback_of_modem_lines_as_linux_probes_it(uart: Uart) -> None:
    uart.write(MCR, 0x1A)  # LOOP, OUT2, RTS
    assert uart.read(MSR) & 0xF0 == 0x90  # DCD, CTS
    uart.write(MCR, 0x15)  # LOOP, OUT1, DTR
    assert uart.read(MSR) == 0x6B  # RI, DSR; deltas of CTS, DSR, DCD; RI rose: no TERI
    uart.write(MCR, 0x11)
    assert uart.read(MSR) == 0x24  # TERI: RI fell
    uart.write(MCR, 0x00)
    assert uart.read(MSR) & 0xF0 == 0xB0


def test_loopback_fifo_overrun_keeps_the_old_bytes(uart: Uart) -> None:
    uart.write(FCR, 0x01)
    uart.write(MCR, 0x10)
    assert uart.receive(b"h") == 0, "the line is cut off in loopback"
    for byte in range(17):
        uart.write(THR, byte)
    assert uart.read(LSR) & 0x02
    assert [uart.read(RBR) for _ in range(16)] == list(range(16))
    assert uart.uart.rx_overruns == 1


# --- a host that does not keep up -------------------------------------------------------


def test_full_host_holds_thre_back_and_announces_room(uart: Uart) -> None:
    uart.write(FCR, 0x01)
    uart.write(IER, THRE)
    uart.read(IIR)
    uart.edges()
    uart.room = 3
    for byte in b"0123456789abcdef":
        uart.write(THR, byte)
    assert uart.sent == b"012"
    assert uart.read(LSR) & EMPTY == 0
    assert uart.read(IIR) & 0x0F == NONE
    uart.edges()
    uart.room = 5
    assert not uart.drain()
    assert uart.edges() == 0 and uart.read(LSR) & EMPTY == 0
    uart.room = 100
    assert uart.drain()
    assert uart.edges() == 1, "the transmitter is empty again"
    assert uart.read(IIR) & 0x0F == THRE_ID
    assert uart.read(LSR) & EMPTY == EMPTY
    assert uart.sent == b"0123456789abcdef"


def test_polling_driver_sees_room_without_a_drain(uart: Uart) -> None:
    uart.room = 0
    uart.write(THR, 65)
    assert uart.read(LSR) & EMPTY == 0
    uart.room = 1
    assert uart.read(LSR) & EMPTY == EMPTY and uart.sent == b"A"


def test_driver_that_ignores_thre_loses_bytes_but_not_order(uart: Uart) -> None:
    uart.write(FCR, 0x01)
    uart.room = 0
    for byte in range(20):
        uart.write(THR, byte)
    uart.room = 100
    uart.drain()
    assert uart.sent == bytes(range(16))
    assert uart.uart.tx_overruns == 4 and uart.uart.tx_bytes == 16


# --- saved state, any sequence ------------------------------------------------------------


def test_restore_raises_a_pending_interrupt_again(uart: Uart, library: tuple[object, object]) -> None:
    uart.write(FCR, 0xC1)
    uart.write(IER, RDA)
    uart.write(SCR, 7)
    uart.receive(b"abc")
    other = Uart(*library)
    assert other.lib.uart16550_restore(other.uart, uart.ffi.addressof(uart.uart, "s")) == 0
    assert other.edges() == 1
    assert (other.read(SCR), other.read(IIR)) == (7, 0xC0 | TIMEOUT_ID)
    assert bytes(other.read(RBR) for _ in range(3)) == b"abc"


@pytest.mark.parametrize(("field", "value"), [("rx_len", 17), ("tx_len", 255), ("ier", 0x10), ("mcr", 0x20),
                                              ("fcr", 0x06), ("lsr_errors", 1), ("msr_deltas", 0x10),
                                              ("thre_pending", 2), ("rx_len", 2)])
def test_restore_refuses_the_impossible(uart: Uart, field: str, value: int) -> None:
    state = uart.ffi.new("struct uart16550_state *")
    setattr(state, field, value)
    uart.write(SCR, 0x55)
    assert uart.lib.uart16550_restore(uart.uart, state) == -1
    assert uart.read(SCR) == 0x55


@pytest.mark.parametrize("seed", range(8))
def test_any_sequence_keeps_the_invariants(uart: Uart, seed: int) -> None:
    dice = random.Random(seed)
    got_in = 0
    for _ in range(4000):
        action = dice.randrange(8)
        if action < 3:
            uart.write(dice.randrange(8), dice.choice((0, 1, 2, 3, 0x10, 0x80, 0xFF, dice.randrange(256))))
        elif action < 6:
            assert 0 <= uart.read(dice.randrange(8)) <= 255
        elif action == 6:
            got_in += uart.receive(dice.randbytes(dice.randrange(40)))
        else:
            uart.room = dice.randrange(30)
            uart.drain()
        state = uart.uart.s
        capacity = 16 if state.fcr & 1 else 1
        assert state.rx_len <= capacity and state.tx_len <= capacity
        assert not (state.tx_len and state.thre_pending), "THRE is not announced while bytes wait"
        sources = {RLS: state.lsr_errors, RDA: state.rx_len, THRE: state.thre_pending, MS: state.msr_deltas}
        condition = sum(bit for bit, source in sources.items() if source) & state.ier
        assert uart.uart.raised == condition, "each pending condition has had its edge"
        assert uart.uart.rx_bytes == got_in and uart.uart.tx_bytes == len(uart.sent)
        fresh = uart.ffi.new("struct uart16550 *")
        uart.lib.uart16550_init(fresh, uart._ops, uart.ffi.NULL)
        edges = uart.interrupts
        restored = uart.lib.uart16550_restore(fresh, uart.ffi.addressof(state))
        assert restored == 0, "what is saved can be restored"
        uart.interrupts = edges
