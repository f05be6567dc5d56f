# SPDX-License-Identifier: Apache-2.0
"""A machine with the device in it, without a vCPU: tests make the guest's accesses themselves."""

from __future__ import annotations

from vmm_testkit.virtio_machine import Bus, PciFunction, empty_plan, spec_of_class
from vmmcore.machine.assembly import Machine

from vmm_pci_edu.device import Edu
from vmm_pci_edu.plugin import EduOptions

RAM = [(0, 8 << 20), (256 << 20, 1 << 20), (1 << 32, 1 << 20)]


class Rig:
    """The device, its registers in BAR 0, and guest memory."""

    def __init__(self, options: str) -> None:
        plan = empty_plan(RAM)
        values = EduOptions.parse(options, "--plugin pci-edu").to_dict()
        plan["devices"].append(spec_of_class(Edu, "edu0", values, {}))
        self.machine = Machine(plan, [])
        self.machine.build()
        self.machine.start()
        (device,) = self.machine.devices.values()
        assert isinstance(device, Edu)
        self.device, self.memory = device, self.machine.memory
        self.bus = Bus(self.machine.vm)
        self.pci = PciFunction(self.bus, 1)
        self.pci.write(4, 2, 6)
        self.base = self.pci.bar(0)

    def read(self, offset: int, size: int = 4) -> int:
        return self.bus.read(self.base + offset, size)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.bus.write(self.base + offset, size, value)

    def pump(self) -> None:
        """The main thread's part: one thing that is waiting for it."""
        self.machine.loop.wait()
