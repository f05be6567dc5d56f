# SPDX-License-Identifier: Apache-2.0
"""The PCI side of :mod:`vmm_testkit.virtio`: the machine's main loop, capabilities, registers, interrupts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vmmcore.machine.native import ffi, lib

from vmm_testkit.virtio_machine import Bus, PciFunction

if TYPE_CHECKING:
    from vmmcore.machine.assembly import Machine
    from vmmcore.virtio import VirtioDevice

# Device status (§2.1)
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
NO_VECTOR = 0xFFFF
#: common configuration (§4.1.4.3): name -> (offset, size)
COMMON = {
    "device_feature_select": (0x00, 4), "device_feature": (0x04, 4), "driver_feature_select": (0x08, 4),
    "driver_feature": (0x0C, 4), "config_msix_vector": (0x10, 2), "num_queues": (0x12, 2), "device_status": (0x14, 1),
    "config_generation": (0x15, 1), "queue_select": (0x16, 2), "queue_size": (0x18, 2), "queue_msix_vector": (0x1A, 2),
    "queue_enable": (0x1C, 2), "queue_notify_off": (0x1E, 2), "queue_desc": (0x20, 8), "queue_driver": (0x28, 8),
    "queue_device": (0x30, 8), "queue_notify_data": (0x38, 2), "queue_reset": (0x3A, 2),
}  # fmt: skip
_CAP_VENDOR, _CAP_MSIX = 0x09, 0x11
_COMMON, NOTIFY, _ISR, _DEVICE, _PCI_CFG, _SHARED = 1, 2, 3, 4, 5, 8  # §4.1.4
_EVENT_DEVICE = 9  # VMM_EVENT_DEVICE of vmmcore.h
_EDGE = 1 << 31  # EPOLLET
_BACKSTOP_MS = 5  # how often to look at the rings while a device was asked not to interrupt


class VirtioError(AssertionError):
    """The device did not do what a driver may rely on; the text says what was awaited."""


class VirtioPci:
    """A virtio function and the main loop of its machine; :class:`vmm_testkit.virtio.VirtioDriver` adds the driver.

    machine, bus, pci   the machine, accesses to its bus, the function's config space
    device              the device object
    events              (kind, arg) of the machine's events that were not for the device
    told                what the front would be told: (event, data), such as "device-failed"
    regions             structures of BARs: cfg_type (§4.1.4) -> (guest-physical address, bytes)
    shared              shared memory regions: id -> (guest-physical address, bytes)
    vectors             MSI-X vectors that the function has
    pci_cfg_at          config offset of the PCI_CFG capability, 0: none
    """

    def __init__(self, machine: Machine, device: VirtioDevice, slot: int) -> None:
        self.machine, self.device = machine, device
        self.bus = Bus(machine.vm)
        self.pci = PciFunction(self.bus, slot)
        self.events: list[tuple[int, int]] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        machine.tell = lambda event, **data: self.told.append((event, data))
        self._poll_events: Any = ffi.new("uint32_t *")
        self._find()

    # --- the machine's main loop ---------------------------------------------------------------------------

    def pump(self, timeout: float = 0.0) -> bool:
        """Let the machine's main thread do its part for one event, waiting up to `timeout` s. False: none came."""
        machine = self.machine
        fd = lib.vmm_poll_wait(machine.vm, int(timeout * 1000), self._poll_events)
        if fd < 0:
            return False
        handler = machine.loop.handlers.get(fd) if fd > 0 else None
        if handler is not None:
            handler(fd, self._poll_events[0])
        while event := machine.next_event():
            self._on_event(*event[:2])
        return True

    def _on_event(self, kind: int, arg: int) -> None:
        if kind == _EVENT_DEVICE:
            self.machine.device_event(arg)
        else:
            self.events.append((kind, arg))

    def settle(self) -> None:
        """Let the machine's main thread do all that is to be done now."""
        while self.pump():
            pass

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
        """Pump until the condition holds. Raises VirtioError after `timeout` s."""
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                raise VirtioError(f"{self.device.id}: {what}: not within {timeout:g} s (status 0x{self.status:02x})")
            self.pump(min(left, _BACKSTOP_MS / 1000))

    # --- the function: capabilities, registers -------------------------------------------------------------

    def _find(self) -> None:
        """Switch decoding on and read the capabilities."""
        assert self.pci.read(0, 2) == 0x1AF4, "not a virtio device"
        self.pci.write(4, 2, 6)  # memory, bus master
        self.regions: dict[int, tuple[int, int]] = {}
        self.shared: dict[int, tuple[int, int]] = {}
        self.pci_cfg_at = self.notify_multiplier = 0
        self.msix_at = self.msix_table = self.msix_pba = self.vectors = 0
        self.msix = False
        for cap, at in self.pci.capabilities():
            if cap == _CAP_MSIX:
                self._find_msix(at)
            elif cap == _CAP_VENDOR:
                self._find_structure(at)
        missing = {_COMMON, NOTIFY, _ISR} - self.regions.keys()
        assert not missing, f"structures {missing} have no capability"
        for vector in getattr(self.device, "msix", ()):  # wakes our loop; the count stays the device's
            self.machine.loop.add(vector.fd, 1 | _EDGE, lambda fd, events: None)

    def _find_structure(self, at: int) -> None:
        kind, bar, number = (self.pci.read(at + n, 1) for n in (3, 4, 5))
        offset, size = self.pci.read(at + 8, 4), self.pci.read(at + 12, 4)
        if kind == _PCI_CFG:
            self.pci_cfg_at = at
            return
        if kind == _SHARED:
            offset |= self.pci.read(at + 16, 4) << 32
            size |= self.pci.read(at + 20, 4) << 32
            self.shared[number] = (self.pci.bar(bar) + offset, size)
            return
        self.regions.setdefault(kind, (self.pci.bar(bar) + offset, size))
        if kind == NOTIFY:
            self.notify_multiplier = self.pci.read(at + 16, 4)

    def _find_msix(self, at: int) -> None:
        self.msix_at, self.vectors = at, (self.pci.read(at + 2, 2) & 0x7FF) + 1
        table, pba = self.pci.read(at + 4, 4), self.pci.read(at + 8, 4)
        self.msix_table = self.pci.bar(table & 7) + (table & ~7)
        self.msix_pba = self.pci.bar(pba & 7) + (pba & ~7)

    def common(self, name: str) -> int:
        """A register of the common configuration (a key of COMMON)."""
        offset, size = COMMON[name]
        if size == 8:  # as two, which every device must take
            return self._common(offset, 4) | self._common(offset + 4, 4) << 32
        return self._common(offset, size)

    def set_common(self, name: str, value: int) -> None:
        offset, size = COMMON[name]
        at = self.regions[_COMMON][0] + offset
        self.bus.write(at, min(size, 4), value)
        if size == 8:
            self.bus.write(at + 4, 4, value >> 32)

    def _common(self, offset: int, size: int) -> int:
        return self.bus.read(self.regions[_COMMON][0] + offset, size)

    @property
    def common_address(self) -> int:
        """Guest-physical address of the common configuration, for accesses that no driver should make."""
        return self.regions[_COMMON][0]

    @property
    def status(self) -> int:
        return self.common("device_status")

    @status.setter
    def status(self, value: int) -> None:
        self.set_common("device_status", value)

    @property
    def generation(self) -> int:
        return self.common("config_generation")

    def isr(self) -> int:
        """The ISR status byte; reading clears it."""
        return self.bus.read(self.regions[_ISR][0], 1)

    @property
    def config_size(self) -> int:
        """Bytes of the device configuration that the capability tells of."""
        return self.regions.get(_DEVICE, (0, 0))[1]

    def config_read(self, offset: int, size: int) -> int:
        """A field of the device configuration: 1, 2, 4 or 8 bytes (8: as two of 4)."""
        at = self.regions[_DEVICE][0] + offset
        if size == 8:
            return self.bus.read(at, 4) | self.bus.read(at + 4, 4) << 32
        return self.bus.read(at, size)

    def config_bytes(self, offset: int, size: int) -> bytes:
        return bytes(self.bus.read(self.regions[_DEVICE][0] + offset + n, 1) for n in range(size))

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.bus.write(self.regions[_DEVICE][0] + offset, size, value)
        self.settle()

    # --- interrupts ----------------------------------------------------------------------------------------

    def enable_msix(self) -> None:
        """MSI-X on with a message in each vector, all of them masked: what is signalled is then seen as pending."""
        for n in range(self.vectors):
            at = self.msix_table + 16 * n
            self.bus.write(at, 4, 0xFEE0_0000)
            self.bus.write(at + 4, 4, 0)
            self.bus.write(at + 8, 4, 0x40 + n % 0x80)
            self.bus.write(at + 12, 4, 1)
        self.pci.write(self.msix_at + 2, 2, 0x8000)
        self.msix = True

    def disable_msix(self) -> None:
        self.pci.write(self.msix_at + 2, 2, 0)
        self.msix = False

    def interrupts(self) -> set[int]:
        """The MSI-X vectors that were signalled since the last call."""
        self.settle()
        found = set()
        for first in range(0, self.vectors, 32):
            bits = self.bus.read(self.msix_pba + first // 8, 4)
            found |= {first + n for n in range(32) if bits >> n & 1}
        for n in found:  # delivered (to nobody) and masked again
            self.bus.write(self.msix_table + 16 * n + 12, 4, 0)
            self.bus.write(self.msix_table + 16 * n + 12, 4, 1)
        return found
