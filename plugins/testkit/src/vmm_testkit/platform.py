# SPDX-License-Identifier: Apache-2.0
"""One platform device in a real machine without a vCPU: tests make the guest's accesses themselves. Needs a KVM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from vmmcore.machine.assembly import Machine

from .virtio_machine import RAM, Bus, empty_plan, spec_of_class

if TYPE_CHECKING:
    from vmmcore.device import Device


class PlatformRig:
    """A device of class `cls` with its registers at `address`; a context manager. Raises VmmError as the device does.

    machine, device  of the core
    """

    def __init__(self, cls: type[Device], address: int, gsi: int, options: Mapping[str, Any] | None = None) -> None:
        plan = empty_plan(RAM)
        spec = spec_of_class(cls, f"{cls.__name__.lower()}0", options or {}, {})
        spec |= {"bus": "platform", "resources": {"address": address, "gsi": gsi}}
        plan["devices"].append(spec)
        self.address = address
        self.machine = Machine(plan, [])
        try:
            self.machine.build()
            self.machine.start()
        except BaseException:
            self.machine.close()
            raise
        (self.device,) = self.machine.devices.values()
        self._bus = Bus(self.machine.vm)

    def read(self, offset: int, size: int = 4) -> int:
        return self._bus.read(self.address + offset, size)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self._bus.write(self.address + offset, size, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.machine.close()
