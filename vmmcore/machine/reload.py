# SPDX-License-Identifier: Apache-2.0
"""New code for a device of a running VM: its modules are imported afresh, its state goes from the old object to the
new one, the guest's driver stays bound. Imported when it is first asked for."""

from __future__ import annotations

import sys
from posix import stat
from posixpath import dirname

from vmmcore.device import PciDevice
from vmmcore.errors import VmmError, origin

from .assembly import device_class, user_file_module
from .native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from vmmcore.device import Device

    from .assembly import Machine


def reload_device(machine: Machine, device_id: str) -> None:
    """Replace the device by an object of its class as the source has it now. Raises VmmError: the old one goes on."""
    old = machine.devices.get(device_id)
    if old is None:
        raise VmmError(f"no device '{device_id}'")
    spec = next((entry for entry in machine.plan["devices"] if entry["id"] == device_id), None)
    if spec is None or not isinstance(old, PciDevice):
        raise VmmError(f"{device_id} is no PCI device; only those can be reloaded")
    if machine.state not in ("running", "paused"):
        raise VmmError(f"the VM is {machine.state}; a device can be reloaded while it is running or paused")
    running = machine.state == "running"
    if running:
        lib.vmm_vcpus_pause(machine.vm)
    try:
        modules = _take_out(spec)
        try:
            _replace(machine, old, _new_class(spec), spec, running)
        except Exception as error:
            _put_back(spec, modules)
            raise VmmError(f"{device_id} keeps its old code: {_cause(error)}") from None
    finally:
        if running:
            lib.vmm_vcpus_resume(machine.vm)
    machine.tell("device-reloaded", device=device_id)


def reload_changed(machine: Machine, since: float, say: Callable[[str], None]) -> None:
    """Reload every PCI device of whose source a file is newer than `since` (time.time()); say what came of it."""
    since -= 0.01  # the clock of file systems moves in steps of so much
    changed = False
    for spec in list(machine.plan["devices"]):
        device = machine.devices.get(spec["id"])
        if isinstance(device, PciDevice) and any(mtime > since for mtime in _mtimes(spec)):
            changed = True
            try:
                reload_device(machine, spec["id"])
            except VmmError as error:
                say(f"error: {error}")
            else:
                say(f"{spec['id']}: reloaded")
    if not changed:
        say("nothing to reload: the source of no PCI device has changed")


def _mtimes(spec: dict[str, Any]) -> list[float]:
    found = []
    for name, module in list(sys.modules.items()):
        if _is_of(spec, name, module):
            try:
                found.append(stat(str(module.__file__)).st_mtime)
            except OSError:  # gone: importing it will say so
                pass
    return found


def _replace(machine: Machine, old: PciDevice, cls: type[Device], spec: dict[str, Any], running: bool) -> None:
    new = machine.make_device(cls, spec, machine._fds)
    assert isinstance(new, PciDevice)
    try:
        new._build()
    except BaseException:
        _drop(new)
        raise
    try:
        if running:
            old._enter("paused")
        state = old._save()
        lib.vmm_pci_detach(old.pci)
        try:
            new._attach()
            new._restore(state)
            if running:
                new._enter("activated")
        except BaseException:
            lib.vmm_pci_detach(new.pci)
            old._attach()
            lib.vmm_pci_restore(old.pci, state["pci"], len(state["pci"]))
            raise
    except BaseException:
        _drop(new)
        if old.state == "paused" and running:
            old._enter("activated")
        raise
    machine.put_device(new)
    old._enter("removed")


def _drop(new: PciDevice) -> None:
    """Let an object go that never came to work, whatever state it is in."""
    try:
        if new.state == "activated":
            new._enter("paused")
        if new.state != "removed":
            new.remove()
    except Exception:  # what is missing in it has been told already, as the error that led here
        pass
    if new.pci is not None:
        new._free_pci()


# --- modules ---


def _take_out(spec: dict[str, Any]) -> dict[str, ModuleType]:
    """Forget the imported modules of the device's package, or of its file and those beside it, but those in C."""
    found = {name: module for name, module in sys.modules.items() if _is_of(spec, name, module)}
    for name in found:
        del sys.modules[name]
    return found


def _put_back(spec: dict[str, Any], modules: dict[str, ModuleType]) -> None:
    _take_out(spec)
    sys.modules.update(modules)


def _is_of(spec: dict[str, Any], name: str, module: ModuleType) -> bool:
    source = getattr(module, "__file__", None) or ""
    if not source.endswith(".py"):
        return False
    if "file" in spec:
        return name == user_file_module(spec["file"]) or dirname(source) == dirname(spec["file"])
    package = str(spec["module"]).partition(".")[0]
    return package != "vmmcore" and name.partition(".")[0] == package


def _new_class(spec: dict[str, Any]) -> type[Device]:
    """The class in today's source. A byte-code file is not asked: it may be as old as the second says."""
    for finder in sys.path_importer_cache.values():
        forget = getattr(finder, "invalidate_caches", None)
        if forget is not None:
            forget()
    here: Any = sys.implementation
    tag, here.cache_tag = here.cache_tag, None
    try:
        found = device_class(spec)
    finally:
        here.cache_tag = tag
    if not (isinstance(found, type) and issubclass(found, PciDevice)):
        raise VmmError(f"{spec['class']} is no PCI device any more")
    return found


def _cause(error: Exception) -> str:
    """The error and where it came from, in one line."""
    if isinstance(error, VmmError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    found = origin(error)
    place = f" ({found[0]}:{found[1]})" if found else ""
    return f"{type(error).__name__}: {error}{place}"
