# SPDX-License-Identifier: Apache-2.0
"""PCI devices that come and go while the guest runs, with its consent (registers: native/pci_hotplug.c).

Imported by the first request that adds or removes a device.
"""

from __future__ import annotations

import os

from vmmcore.device import PciDevice

from .native import check, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.device import Device

    from .assembly import Machine

NO_WAY = -19  # ENODEV: the machine has no controller, or no event device


def announce(machine: Machine, device: Device) -> None:
    """Have the guest find a device that was just added. One that has not run yet will find it by itself."""
    if machine.state != "created" and isinstance(device, PciDevice):
        result = lib.vmm_pci_plug(device.pci)
        if result != NO_WAY:
            check(machine.vm, result)


def ask(machine: Machine, device: Device) -> bool:
    """Ask the guest to let go of a device, once more if need be. False: it cannot be asked, or has not run yet."""
    if machine.state == "created" or not isinstance(device, PciDevice):
        return False
    result = lib.vmm_pci_unplug(device.pci)
    if result == NO_WAY:
        return False
    check(machine.vm, result)
    machine.removing.add(device.id)
    return True


def take(machine: Machine, device_id: str) -> None:
    """Take a device away without asking; the guest is told. Raises VmmError for an unknown id."""
    device = machine.devices.get(device_id)
    if machine.state != "created" and isinstance(device, PciDevice):
        lib.vmm_pci_vanish(device.pci)
    machine.remove_device(device_id)


def ejected(machine: Machine) -> list[str]:
    """The devices that were to be removed and that the guest has let go of by now."""
    found = []
    while (place := lib.vmm_pci_ejected(machine.vm)) >= 0:
        found += [
            id
            for id in machine.removing
            if (machine.devices[id].resources.get("segment", 0), machine.devices[id].resources["slot"])
            == divmod(place, 32)
        ]
    return found


def keep_files(plan: dict[str, Any], spec: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """The entry of a device for the plan of the next boot: its files stay open, under new numbers."""
    kept = plan["fds"]
    numbers = []
    for fd in fds:
        if -1 in kept:
            numbers.append(kept.index(-1))
            kept[numbers[-1]] = fd
        else:
            numbers.append(len(kept))
            kept.append(fd)
    fds.clear()
    return {**spec, "files": {name: numbers[index] for name, index in (spec.get("files") or {}).items()}}


def drop(plan: dict[str, Any], device_id: str) -> None:
    """The device is none of the plan's any more: the files that only it has are closed."""
    for spec in [d for d in plan["devices"] if d["id"] == device_id]:
        plan["devices"].remove(spec)
        for index in (spec.get("files") or {}).values():
            if plan["fds"][index] > 2 and not _used(plan, index):
                os.close(plan["fds"][index])
                plan["fds"][index] = -1


def _used(plan: dict[str, Any], index: int) -> bool:
    if any(index in (d.get("files") or {}).values() for d in plan["devices"]):
        return True
    return any(part.get("file") == index for part in plan["load"])
