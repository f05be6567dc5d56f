# SPDX-License-Identifier: Apache-2.0
"""Devices for the bare-metal guests to talk to: ``vmm run --plugin tests/baremetal/devices.py`` gives one of each.

``ports`` is a platform device that logs each access, ``pcia`` and ``pcib`` are two alike PCI functions. Their
registers are in guests/devices.h.
"""

from __future__ import annotations

import posix

from vmmcore.device import Device, PciDevice
from vmmcore.hooks import DeviceType, hookimpl

API = (1, 0)

LOG_MAX = 256
PORTS, PORTS_SIZE, INFO_PORTS = 0x2A0, 8, 0x2B0
MMIO, HALF, CONTROL = 0xFED5_0000, 0x800, 0xFED5_2000

#: In the runner this outlives a reboot of the guest, which is a new Machine in the same process.
builds = [0]


@hookimpl
def vmm_device_types() -> list[DeviceType]:
    return [
        DeviceType("ports", ":Ports", bus="platform"),
        DeviceType("pcia", ":PciA"),
        DeviceType("pcib", ":PciB"),
    ]


def pattern(offset: int, size: int) -> int:
    """What a logging region reads as: each byte tells its offset."""
    return int.from_bytes(bytes((7 * (offset + n) + 3) & 0xFF for n in range(size)), "little")


class Ports(Device):
    """Three logging regions (8 ports, two adjacent halves of a page) and registers that show the log."""

    def realize(self) -> None:
        builds[0] += 1
        self.log: list[tuple[int, int, int, int, int]] = []  # region, is_write, offset, size, value
        self.index = 0
        self.add_logged(self.machine.pio, PORTS, PORTS_SIZE, 1)
        self.add_logged(self.machine.mmio, MMIO, HALF, 2)
        self.add_logged(self.machine.mmio, MMIO + HALF, HALF, 3)
        self.machine.mmio.add(CONTROL, 4096, self.control_read, self.control_write, "control")
        self.machine.pio.add(INFO_PORTS, 8, self.info_read, None, "info")

    def add_logged(self, space: object, base: int, size: int, region: int) -> None:
        def read(offset: int, size: int) -> int:
            self.note(region, 0, offset, size, 0)
            return pattern(offset, size)

        def write(offset: int, size: int, value: int) -> None:
            self.note(region, 1, offset, size, value)

        space.add(base, size, read, write, f"logged region {region}")  # type: ignore[attr-defined]

    def note(self, *access: int) -> None:
        if len(self.log) < LOG_MAX:
            self.log.append(access)  # type: ignore[arg-type]

    def control_read(self, offset: int, size: int) -> int:
        if offset == 0:
            return len(self.log)
        if 8 <= offset < 48 and self.index < len(self.log):
            return self.log[self.index][(offset - 8) // 8]
        return 0

    def control_write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self.log.clear()
            self.index = 0
        elif offset == 8:
            self.index = value

    def info_read(self, offset: int, size: int) -> int:
        return builds[0] if offset == 0 else len(posix.listdir("/proc/self/fd"))


class Scratch(PciDevice):
    """Memory, port and 64-bit BARs, four MSI-X vectors with a doorbell, a capability, bits to write ones to."""

    vendor_id = 0x1234
    class_code = 0x118000
    revision = 3
    subsystem_vendor_id = 0x4321
    subsystem_id = 0x0777

    def realize(self) -> None:
        from vmmcore.machine.native import lib

        # Status: detected parity error … signalled target abort, set, cleared by writing ones (PCI 3.0 §6.2.3).
        lib.vmm_pci_set(self.pci, 6, 2, 0xF900, 0, 0xF900)
        self.scratch = [0, 0, 0]
        self.writes = self.signals = 0
        self.add_bar(0, 4096, self.read0, self.write0)
        self.add_bar(1, 64, self.read1, self.write1, io=True)
        self.add_bar(2, 0x10000, self.read2, self.write2, is64=True, prefetchable=True)
        self.add_msix(4, 4)
        self.add_capability(0x09, bytes([10, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77]),
                            bytes([0, 0, 0xFF, 0x0F, 0, 0, 0xFF, 0]))  # fmt: skip

    def read0(self, offset: int, size: int) -> int:
        if offset in (0x20, 0x28, 0x30):
            at = self.bar_address((offset - 0x20) // 8)
            return (1 << 64) - 1 if at is None else at
        return {0: 0x5454_0000 | self.device_id, 4: self.writes, 8: self.scratch[0],
                0x18: self.signals}.get(offset, 0)  # fmt: skip

    def write0(self, offset: int, size: int, value: int) -> None:
        self.writes += 1
        if offset == 8:
            self.scratch[0] = value
        elif offset == 0x10 and value < len(self.msix):
            self.signals += 1
            self.msix[value].signal()

    def read1(self, offset: int, size: int) -> int:
        return (0x4949_0000 | self.device_id, self.scratch[1])[offset // 4 & 1] >> 8 * (offset & 3)

    def write1(self, offset: int, size: int, value: int) -> None:
        if offset == 4:
            self.scratch[1] = value

    def read2(self, offset: int, size: int) -> int:
        return {0: 0x6464_0000 | self.device_id, 8: self.scratch[2], 0xFFF8: 0x6565}.get(offset, 0)

    def write2(self, offset: int, size: int, value: int) -> None:
        if offset == 8:
            self.scratch[2] = value


class PciA(Scratch):
    device_id = 0x0B0A


class PciB(Scratch):
    device_id = 0x0B0B
