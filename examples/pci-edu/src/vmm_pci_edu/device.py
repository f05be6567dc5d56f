# SPDX-License-Identifier: Apache-2.0
"""The runner's half of edu. Its programming interface is documented in QEMU's docs/specs/edu.rst."""

from __future__ import annotations

import os
from typing import Any

from vmmcore.device import PciDevice
from vmmcore.errors import VmmError
from vmmcore.registers import Register, RegisterMap

BUFFER, BUFFER_SIZE = 0x40000, 4096
IRQ_FACTORIAL, IRQ_DMA = 0x001, 0x100
EPOLLIN = 1


class Regs(RegisterMap):
    """BAR 0. Below 0x80 it takes accesses of 4 bytes only."""

    size = 1 << 20
    sizes = (4,)

    ID = Register(0x00, access="ro", reset=0x0100_00ED, doc="version 1.0, edu")
    LIVENESS = Register(0x04, doc="reads as the inverse of what was written")
    FACTORIAL = Register(0x08, doc="write n, read n! modulo 2^32 once COMPUTING is off")
    STATUS = Register(0x20, writable=0x80, doc="0x01: computing the factorial, 0x80: interrupt when it is done")
    COMPUTING = STATUS.bit(0)
    FACTORIAL_IRQ = STATUS.bit(7)
    IRQ_STATUS = Register(0x24, access="ro", doc="why there is an interrupt: 0x001 factorial, 0x100 DMA, or raised")
    IRQ_RAISE = Register(0x60, access="wo", doc="ORed into the interrupt status")
    IRQ_ACK = Register(0x64, access="wo", doc="taken out of the interrupt status")
    DMA_SOURCE = Register(0x80, 8, sizes=(4, 8), doc="address in guest memory, or of the buffer at 0x40000")
    DMA_TARGET = Register(0x88, 8, sizes=(4, 8), doc="likewise")
    DMA_COUNT = Register(0x90, 8, sizes=(4, 8), doc="bytes")
    DMA_COMMAND = Register(0x98, 8, writable=0x07, sizes=(4, 8),
                           doc="0x1: start, on until done; 0x2: from the device to memory; 0x4: interrupt when done")
    DMA_RUN = DMA_COMMAND.bit(0)
    DMA_TO_MEMORY = DMA_COMMAND.bit(1)
    DMA_IRQ = DMA_COMMAND.bit(2)


class Edu(PciDevice):
    """A factorial unit, a DMA engine with a buffer of 4 KiB, and an interrupt for both.

    A write starts the work, the main thread does it: the vCPU goes on meanwhile, and polls or gets an interrupt.
    """

    vendor_id, device_id = 0x1234, 0x11E8
    class_code = 0x00FF00
    revision = 0x10
    interrupt_pin = True

    def realize(self) -> None:
        self.dma_mask = int(self.options.get("dma_mask", 0x0FFF_FFFF))
        self.buffer = bytearray(BUFFER_SIZE)
        self.factorials = self.transfers = self.dma_errors = 0
        self.dma_running = False
        self.regs = self.add_registers(0, Regs)
        self.add_msix(1, 1)
        self.work_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.machine.loop.add(self.work_fd, EPOLLIN, self.on_work)

    def reset(self) -> None:
        self.buffer[:] = bytes(BUFFER_SIZE)
        self.intx(False)

    def pause(self) -> None:
        self.work()  # what has been started is finished: nothing touches guest memory after this

    def remove(self) -> None:
        self.machine.loop.remove(self.work_fd)
        os.close(self.work_fd)

    def save(self) -> dict[str, Any]:
        return {"buffer": bytes(self.buffer)}

    def restore(self, state: dict[str, Any]) -> None:
        self.buffer[:] = state["buffer"]
        self.intx(bool(self.regs.IRQ_STATUS))

    def counters(self) -> dict[str, int]:
        return {"factorials": self.factorials, "transfers": self.transfers, "dma_errors": self.dma_errors}

    # --- what the guest writes: on a vCPU's thread, one handler at a time ---

    def on_write_LIVENESS(self, value: int) -> None:
        self.regs.LIVENESS = ~value

    def on_write_FACTORIAL(self, value: int) -> bool:
        if self.regs.COMPUTING:
            return False
        self.regs.COMPUTING = 1
        os.eventfd_write(self.work_fd, 1)
        return True

    def on_write_IRQ_RAISE(self, value: int) -> None:
        self.interrupt(value)

    def on_write_IRQ_ACK(self, value: int) -> None:
        self.regs.IRQ_STATUS &= ~value
        if not self.regs.IRQ_STATUS:
            self.intx(False)

    def dma_idle(self, value: int) -> bool:
        """A running transfer keeps its registers."""
        return not self.dma_running

    on_write_DMA_SOURCE = on_write_DMA_TARGET = on_write_DMA_COUNT = dma_idle

    def on_write_DMA_COMMAND(self, value: int) -> bool:
        if self.dma_running:
            return False
        if value & 1:
            self.dma_running = True
            os.eventfd_write(self.work_fd, 1)
        return True

    # --- what takes longer: on the main thread ---

    def on_work(self, fd: int, events: int) -> None:
        os.eventfd_read(fd)
        self.work()

    def work(self) -> None:
        with self.regs.lock:
            if self.regs.COMPUTING:
                self.regs.FACTORIAL = factorial(self.regs.FACTORIAL)
                self.regs.COMPUTING = 0
                self.factorials += 1
                if self.regs.FACTORIAL_IRQ:
                    self.interrupt(IRQ_FACTORIAL)
            if self.dma_running:
                try:
                    self.transfer(self.regs.DMA_SOURCE, self.regs.DMA_TARGET, self.regs.DMA_COUNT)
                    self.transfers += 1
                except VmmError:  # an address that is no memory: as on a real bus, the driver learns nothing
                    self.dma_errors += 1
                self.regs.DMA_RUN = self.dma_running = False
                if self.regs.DMA_IRQ:
                    self.interrupt(IRQ_DMA)

    def transfer(self, source: int, target: int, count: int) -> None:
        """One DMA transfer. Raises VmmError for addresses that are not there."""
        if self.regs.DMA_TO_MEMORY:
            at = self.buffer_offset(source, count)
            self.dma_write(target & self.dma_mask, bytes(self.buffer[at:at + count]))
        else:
            at = self.buffer_offset(target, count)
            self.buffer[at:at + count] = self.dma_read(source & self.dma_mask, count)

    def buffer_offset(self, address: int, count: int) -> int:
        if not (BUFFER <= address and count <= BUFFER_SIZE and address + count <= BUFFER + BUFFER_SIZE):
            raise VmmError(f"{self.id}: no {count} bytes at 0x{address:x} of the device")
        return address - BUFFER

    def interrupt(self, why: int) -> None:
        """Raise the interrupt: MSI-X if the driver chose that, else INTx."""
        self.regs.IRQ_STATUS |= why
        if self.regs.IRQ_STATUS and not self.msix[0].signal():
            self.intx(True)


def factorial(n: int) -> int:
    """n! modulo 2**32. From 34 on it is 0: 34! has 32 factors of two."""
    if n >= 34:
        return 0
    product = 1
    for factor in range(2, n + 1):
        product *= factor
    return product & 0xFFFF_FFFF
