# SPDX-License-Identifier: Apache-2.0
"""The runner's half of the watchdogs: the timer and its registers are in C."""

from __future__ import annotations

from vmmcore.device import Device, PciDevice
from vmmcore.errors import VmmError
from vmmcore.virtio import VirtioDevice

from ._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECOND = 1_000_000_000  # ns


def new(device: Device) -> Any:
    """The timer of a device. Raises VmmError."""
    error = ffi.new("int *")
    machine = device.machine
    made = lib.watchdog_new(ffi.cast("void *", machine.api_address), ffi.cast("void *", machine.vm_address),
                            device.id.encode(), device.token, error)
    if not made:
        import os

        raise VmmError(f"{device.id}: cannot create the watchdog: {os.strerror(-error[0])}")
    return made


class VirtioWatchdog(VirtioDevice):
    """As Cloud Hypervisor's: device type 35, one queue, no features.

    The driver pings with a writable byte, which is set to 1; the first ping starts the timer. Option ``timeout``: s.
    """

    virtio_id = 35
    class_code = 0x088000  # a system peripheral
    queue_sizes = (8,)

    def configure(self) -> None:
        self._watchdog = new(self)

    def start(self) -> None:
        lib.watchdog_resume(self._watchdog)
        queue = self.queues[0]
        if queue.active:
            error = lib.watchdog_serve(self._watchdog, ffi.cast("void *", queue.address),
                                       self.options.get("timeout", 20) * SECOND)
            if error:
                import os

                raise VmmError(f"{self.id}: cannot start: {os.strerror(-error)}")

    def stop(self) -> None:
        if self.state == "paused":
            lib.watchdog_pause(self._watchdog)
        else:  # the driver has let go of it
            lib.watchdog_off(self._watchdog)

    def event(self, arg: int) -> None:
        tell(self, self._watchdog)
        super().event(arg)

    def remove(self) -> None:
        watchdog, self._watchdog = self._watchdog, ffi.NULL
        lib.watchdog_free(watchdog)


class I6300esb(PciDevice):
    """The watchdog of Intel's 6300ESB I/O controller, which Linux knows as i6300esb (native/esb.c)."""

    vendor_id, device_id = 0x8086, 0x25AB
    class_code = 0x088000
    subsystem_vendor_id, subsystem_id = 0x8086, 0x25AB

    def realize(self) -> None:
        self._watchdog = new(self)
        lib.watchdog_esb(self._watchdog, ffi.cast("void *", self.pci_address))
        opaque = int(ffi.cast("uintptr_t", self._watchdog))
        self.add_bar(0, 16, c_handler=(address("watchdog_esb_io"), opaque))
        self.set_config(0x60, 2, 0, writable=0x27)  # WDT configuration
        self.set_config(0x68, 1, 0, writable=0x07)  # WDT lock
        self.watch_config((address("watchdog_esb_config"), opaque))

    def pause(self) -> None:
        lib.watchdog_pause(self._watchdog)

    def resume(self) -> None:
        lib.watchdog_resume(self._watchdog)

    def event(self, arg: int) -> None:
        tell(self, self._watchdog)

    def remove(self) -> None:
        watchdog, self._watchdog = self._watchdog, ffi.NULL
        lib.watchdog_free(watchdog)


def address(name: str) -> int:
    """A C function's, as the core takes it."""
    return int(ffi.cast("uintptr_t", ffi.addressof(lib, name)))


def tell(device: Device, watchdog: Any) -> None:
    """Tell the front that the guest did not set the timer back in time; the reset is under way."""
    if lib.watchdog_expired(watchdog):
        device.machine.tell("watchdog-expired", device=device.id)
