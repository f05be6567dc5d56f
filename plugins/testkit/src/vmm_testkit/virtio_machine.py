# SPDX-License-Identifier: Apache-2.0
"""A machine around one virtio device, for :mod:`vmm_testkit.virtio`: real core, real KVM VM, no vCPU.

Also the module that such a machine's plan names as its architecture: an interrupt controller and nothing else.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vmmcore.machine import assembly
from vmmcore.machine.assembly import PIO as PIO_SPACE
from vmmcore.machine.native import ffi, lib

if TYPE_CHECKING:
    from vmmcore.device import Device
    from vmmcore.front.context import PlanContext

MIB, GIB = 1 << 20, 1 << 30
ECAM = 0xE800_0000
SEGMENT = {
    "id": 0,
    "ecam": ECAM,
    "mmio32": [0xC000_0000, 640 * MIB],
    "mmio64": [64 * GIB, 64 * GIB],
    "pio": [0x1000, 0xF000],
}
INTX_GSIS = [5, 6, 7, 8]
#: two pieces with a hole between them, as real machines have
RAM = ((0, 64 * MIB), (4 * GIB, 16 * MIB))

_KVM_CREATE_IRQCHIP = 0xAE60  # linux/kvm.h
_VM_FD_SLOT = 21  # of struct vmm_api, counted after its four numbers


class Platform(assembly.Platform):
    """Interrupt controllers in the kernel, so that there are GSIs to route."""

    def create(self) -> None:
        slot = self.machine.api_address + 16 + _VM_FD_SLOT * ctypes.sizeof(ctypes.c_void_p)
        vm_fd = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(ctypes.c_size_t.from_address(slot).value)
        if os.uname().machine == "x86_64":
            fcntl.ioctl(vm_fd(self.machine.vm_address), _KVM_CREATE_IRQCHIP)


#: device classes under test, which need not be importable by a name
_classes = types.ModuleType("_vmm_testkit_devices")
sys.modules[_classes.__name__] = _classes


def spec_of_class(
    cls: type[Device], device_id: str, options: Mapping[str, Any], files: Mapping[str, int]
) -> dict[str, Any]:
    """What ``plan["devices"]`` has for an instance of `cls`."""
    name = f"{cls.__qualname__}_{id(cls):x}"
    setattr(_classes, name, cls)
    return {
        "id": device_id,
        "type": cls.__name__.lower(),
        "module": _classes.__name__,
        "class": name,
        "bus": "pci",
        "segment": 0,
        "slot": 1,
        "options": dict(options),
        "resources": {},
        "files": dict(files),
    }


def empty_plan(ram: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """A plan for a machine without CPUs and devices."""
    return {
        "version": 1,
        "id": "testkit",
        "modules": {},
        "user_path": [],
        "arch": {"name": os.uname().machine, "module": __name__},
        "cpus": {"boot": 0, "max": 1, "affinity": {}},
        "memory": {"regions": [list(piece) for piece in ram], "shared": False, "hugepages": False},
        "load": [],
        "entry": None,
        "platform": {},
        "pci": {"segments": [SEGMENT], "gsis": list(INTX_GSIS)},
        "devices": [],
        "files": [],
    }


def plan_flag(plan: dict[str, Any], flag: str, text: str, tell: Any = None) -> list[int]:
    """Have the installed plugin of `flag` (``--disk``, or ``--plugin``) plan a device; the open files are returned.

    Raises VmmError as ``vmm run`` would.
    """
    from vmmcore.front.config import DeviceConfig, VmConfig
    from vmmcore.front.context import Layout, PlanContext
    from vmmcore.front.devices import PLUGIN, assign_slots, plan_device
    from vmmcore.front.planning import plugins_for
    from vmmcore.plan import close_all

    config = VmConfig(id="testkit")
    layout = Layout(
        ram=[(gpa, size) for gpa, size in plan["memory"]["regions"]],
        segments=[SEGMENT],
        gsis=[9, 10, 11],
        pci_gsis=INTX_GSIS,
    )
    fds: list[int] = []
    arch: Any = types.SimpleNamespace(name=plan["arch"]["name"], machine_module=__name__)
    plugins = plugins_for(config)
    context: PlanContext = PlanContext(config, layout, plan, arch, plugins, fds, tell=tell)
    try:
        plan_device(context, plugins, DeviceConfig(flag if flag == PLUGIN else flag.lstrip("-"), text, origin=flag))
        assign_slots(context)
    except BaseException:
        close_all(fds)
        raise
    return fds


class Bus:
    """Accesses as a vCPU makes them. Addresses are guest-physical; sizes are 1, 2, 4 or 8 bytes."""

    def __init__(self, vm: Any) -> None:
        self.vm = vm
        self._data = ffi.new("uint8_t[8]")

    def read(self, address: int, size: int, space: int = 1) -> int:
        lib.vmm_bus_access(self.vm, space, address, self._data, size, 0)
        return int.from_bytes(ffi.buffer(self._data, size), "little")

    def write(self, address: int, size: int, value: int, space: int = 1) -> None:
        ffi.buffer(self._data, size)[:] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        lib.vmm_bus_access(self.vm, space, address, self._data, size, 1)

    def pio_read(self, port: int, size: int) -> int:
        return self.read(port, size, PIO_SPACE)

    def pio_write(self, port: int, size: int, value: int) -> None:
        self.write(port, size, value, PIO_SPACE)


class PciFunction:
    """Config space of the function in `slot` of segment 0, by ECAM."""

    def __init__(self, bus: Bus, slot: int) -> None:
        self.bus, self.slot = bus, slot

    def read(self, offset: int, size: int) -> int:
        return self.bus.read(ECAM + (self.slot << 15) + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        self.bus.write(ECAM + (self.slot << 15) + offset, size, value)

    def bar(self, index: int) -> int:
        """The address that BAR `index` holds."""
        low = self.read(0x10 + 4 * index, 4)
        high = self.read(0x14 + 4 * index, 4) if low & 7 == 4 else 0
        return (high << 32 | low) & ~(3 if low & 1 else 15)

    def capabilities(self) -> list[tuple[int, int]]:
        """(id, offset) of each capability, in the order of the list. Raises AssertionError if that loops."""
        found: list[tuple[int, int]] = []
        at = self.read(0x34, 1) if self.read(6, 2) & 0x10 else 0
        while at:
            assert at >= 0x40, f"a capability at 0x{at:x}"
            assert at % 4 == 0, f"a capability at 0x{at:x}"
            assert len(found) < 48, "the list of capabilities loops"
            found.append((self.read(at, 1), at))
            at = self.read(at + 1, 1)
        return found
