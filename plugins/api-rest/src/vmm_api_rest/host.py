# SPDX-License-Identifier: Apache-2.0
"""The one VM behind the API: its configuration, and its handle while it is booted.

Locks, from outer to inner: `_life` (create, delete, boot, shutdown), `_change` (the configuration and the machine's
devices). What only looks, and pause and resume, take neither: they work with the handle and the configuration as they
are at that moment. The configuration is never changed in place, a new one takes its place. The handle goes with `_life`
alone: who holds only `_change` reads `self.vm` once.
"""

from __future__ import annotations

import copy
import fcntl
import os
import sys
import threading
from http import HTTPStatus

from vmmcore.errors import GuestError, UserError, VmmError
from vmmcore.front.config import DeviceConfig
from vmmcore.front.plugins import cause
from vmmcore.front.vm import Vm

from . import config as configs
from . import sections
from .errors import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from vmmcore.front.config import VmConfig
    from vmmcore.front.plugins import Plugins
    from vmmcore.hooks import DeviceType

    from .catalog import Catalog

    Json = dict[str, Any]

STATES = {"new": "Created", "created": "Created", "running": "Running", "paused": "Paused", "shutdown": "Shutdown"}
#: seconds that a guest has for letting a device go before the answer is "pending"
EJECT_TIME = 1.0
#: seconds that vm.info waits for news of the memory's size
NEWS_TIME = 0.02
#: descriptors from here on are only ours, so that one that a failed plan has closed is not another's by then
_FIRST_FD = 512
_NO_DEVICES = ("cpus", "memory", "payload", "numa", "platform", "pci_segments", "rate_limit_groups")


class Host:
    """What the API's calls do. `ended(status)` is called when the VM ends and nobody asked for that here."""

    def __init__(
        self,
        base: VmConfig,
        plugins: Plugins,
        catalog: Catalog,
        *,
        tell: Callable[[str, Json], None],
        ended: Callable[[int], None],
    ) -> None:
        self._base, self._plugins, self._catalog = base, plugins, catalog
        self._tell, self._ended = tell, ended
        self.config: Json | None = None
        self.vm: Vm | None = None
        self._life, self._change, self._news = threading.Lock(), threading.Lock(), threading.Lock()
        self._fds: dict[str, list[int]] = {}  # descriptors that came with a request or by a flag, by device
        self._silent: set[str] = set()  # what was configured and is no device of its own: mode Off, one more item
        self._memory_actual: int | None = None

    # --- life -------------------------------------------------------------

    def create(self, given: Json) -> None:
        with self._life, self._change:
            if self.config is not None:
                raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, "the VM is created already; delete it first")
            self.config = configs.complete(given, self._catalog)

    def adopt(self, config: VmConfig) -> None:
        """Create what flags describe; takes over the descriptors that they name. Raises UserError."""
        with self._life, self._change:
            fds: dict[str, list[int]] = {}
            found = configs.from_vm_config(config, self._catalog, fds)
            _own([fd for numbers in fds.values() for fd in numbers])
            self.config, self._fds = found, fds

    def delete(self) -> None:
        with self._life:
            if self.config is None:
                return
            self._stop()
            with self._change:
                self.config = None
                for name in list(self._fds):
                    self._drop_fds(name)
        self._deleted()

    def _deleted(self) -> None:
        self._tell("deleted", {})
        try:
            self._plugins.hooks.vmm_vm_event(vm_id=self._base.id, event="deleted", data={})
        except Exception as error:
            print(f"vmm: warning: a plugin failed on the event deleted: {cause(error)}", file=sys.stderr)

    def boot(self) -> None:
        with self._life, self._change:
            if self.config is None:
                raise _not_created()
            if self.vm is not None:
                raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, "the VM is booted already")
            config = copy.deepcopy(self.config)
            configs.name_devices(config, self._catalog)
            lent = {name: _lend(fds) for name, fds in self._fds.items() if name in _ids(config)}
            vm = None
            try:
                wanted = configs.to_vm_config(config, self._base, self._catalog, lent)
                vm = Vm(wanted, plugins=self._plugins)
                vm.on_event(self._tell)
                vm.boot()
            except BaseException as error:
                if vm is not None:
                    vm.close()
                for fds in lent.values():
                    _close(fds)
                if isinstance(error, GuestError):  # its runner failed, which is nobody's request
                    raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error)) from None
                raise
            there = {device["id"] for device in vm.devices()}
            self._silent = _ids(config) - there
            self.config, self.vm, self._memory_actual = config, vm, None
            self._learn_memory(vm)
        threading.Thread(target=self._watch, args=(vm,), name="vm", daemon=True).start()

    def _watch(self, vm: Vm) -> None:
        """Wait for its end. While it runs this thread is the one that reads what the runner tells."""
        status = vm.wait()
        if self.vm is vm and status is not None:
            self._ended(status)

    def shutdown(self) -> None:
        with self._life:
            self._booted()
            self._stop()

    def _stop(self) -> None:
        """End the VM, with _life held; hot-plugged devices stay in the configuration, as there."""
        # Before the VM is taken away: what is added from then on waits for the next boot, and was never this machine's.
        known = self.config
        vm, self.vm = self.vm, None
        if vm is not None:
            try:
                vm.shutdown()
            except VmmError:
                pass  # it is gone, and close() sees to the rest
            with self._change:
                if self.config is not None:
                    self.config = self._present(self.config, vm, known)
                    self._drop_unused_fds(self.config)
                vm.close()

    def close(self) -> None:
        """The front ends."""
        with self._life:
            self._stop()

    def signal(self, number: int) -> None:
        """Hand a signal on to the runner, if there is one."""
        vm = self.vm
        if vm is not None:
            vm.signal(number)

    def pause(self) -> None:
        self._in_state("running", "pause").pause()

    def resume(self) -> None:
        self._in_state("paused", "resume").resume()

    def reboot(self) -> None:
        self._booted().reboot()

    def power_button(self) -> None:
        self._booted().power_button()

    def nmi(self) -> None:
        self._booted().nmi()

    def _booted(self) -> Vm:
        """The VM. Raises ApiError if there is none (404), or none that is booted (405)."""
        vm, config = self.vm, self.config
        if vm is None:
            raise _not_created() if config is None else _not_booted()
        return vm

    def _in_state(self, state: str, what: str) -> Vm:
        vm = self._booted()
        if vm.state != state:
            raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, f"cannot {what}: the VM is {vm.state}")
        return vm

    def explain(self, error: VmmError) -> VmmError:
        """A refusal because the VM has ended, or has another state by now, as what it is."""
        if isinstance(error, GuestError):
            vm = self.vm
            if vm is None or vm.state == "shutdown":
                return _not_created() if self.config is None else _not_booted()
            if ": the VM is " in str(error):
                return ApiError(HTTPStatus.METHOD_NOT_ALLOWED, str(error))
        return error

    # --- looking ----------------------------------------------------------

    def info(self) -> Json:
        vm, config = self.vm, self.config
        if config is None:
            raise _not_created()
        memory = config["memory"]
        parts = [memory, *(memory.get("zones") or ())]
        size = sum((part.get("size") or 0) + (part.get("hotplugged_size") or 0) for part in parts)
        found: Json = {"config": config, "state": "Created", "memory_actual_size": size}
        if vm is not None:
            found["config"] = self._present(config, vm)
            found["state"] = STATES[vm.state]
            found["memory_actual_size"] = self._memory(vm, config, size)
            found["device_tree"] = {device["id"]: _node(device) for device in vm.devices()}
        return found

    def _memory(self, vm: Vm, config: Json, size: int) -> int:
        """Bytes that the guest has by now. Only where it can change is the runner asked, and not waited for."""
        if not _memory_changes(config):
            return size
        if self._news.acquire(blocking=False):
            try:
                actual = vm.info(NEWS_TIME).get("memory_actual")
                self._memory_actual = actual if isinstance(actual, int) else self._memory_actual
            except VmmError:
                pass
            finally:
                self._news.release()
        return size if self._memory_actual is None else self._memory_actual

    def _learn_memory(self, vm: Vm) -> None:
        """Note the memory's size after a change of ours, for a vm.info that finds the runner busy."""
        if self.config is not None and _memory_changes(self.config):
            with self._news:
                try:
                    self._memory_actual = vm.info().get("memory_actual")
                except VmmError:
                    self._memory_actual = None

    def counters(self) -> Json:
        return self._booted().counters()

    # --- changing ---------------------------------------------------------

    def add(self, kind: DeviceType, given: Json, fds: list[int]) -> Json | None:
        """Add a device: its id and place, or None if the VM is not booted. Takes over `fds`."""
        section, form = sections.section_of(kind), self._catalog.form(kind)
        with self._change:
            config = self._current()
            entry = configs.complete_device(given, kind, section.field, form, fds)
            if section.shape != "list" and config.get(section.field):
                raise ApiError(HTTPStatus.CONFLICT, f"there is one {kind.key} at most")
            vm = self.vm
            if vm is not None and kind.bus != "pci":
                raise ApiError(HTTPStatus.BAD_REQUEST, f"{kind.key}: only PCI devices can be added to a running VM")
            if entry.get("id") is None and (fds or vm is not None):
                taken = _ids(config)
                taken |= {device["id"] for device in vm.devices()} if vm is not None else set()
                entry["id"] = configs.free_id(kind.key, taken)
            config = _with(config, section, entry)
            configs.check_ids(config)
            answer = None if vm is None else self._plug(vm, kind, form.read(entry, section.field), fds)
            self.config = config
            if fds:
                self._fds[entry["id"]] = list(fds)
                fds.clear()
            return answer

    def _plug(self, vm: Vm, kind: DeviceType, options: Json, fds: list[int]) -> Json:
        lent = _lend(fds)
        try:
            name = vm.add_device(DeviceConfig(kind.key, options | ({"fd": lent} if lent else {})))
        except BaseException:
            _close(lent)
            raise
        if not name:
            raise ApiError(HTTPStatus.BAD_REQUEST, f"{kind.key}: with these options there is no device")
        bdf = next((device["bdf"] for device in vm.devices() if device["id"] == name), None)
        return {"id": name, "bdf": bdf or ""}

    def remove(self, name: str, force: bool) -> Json | None:
        """Remove a device; None if it is gone, else what to tell of one that the guest holds on to."""
        vm = self.vm
        if vm is None:
            with self._change:
                config, vm = self._current(), self.vm
                if vm is None:
                    rest = _without(config, {name})
                    if rest == config:
                        raise _no_device(name)
                    self.config = rest
                    self._drop_fds(name)
                    return None
        found = [device for device in vm.devices() if device["id"] == name]
        if not found:
            raise _no_device(name)
        if found[0]["bdf"] is None:
            message = f"{name} is not on PCI; only PCI devices can be removed from a running VM"
            raise ApiError(HTTPStatus.BAD_REQUEST, message)
        try:
            state = vm.remove_device(name, force, wait=EJECT_TIME)
        except GuestError as error:
            if "no device '" in str(error):  # another request was first
                raise _no_device(name) from None
            raise
        if state == "pending":
            return {"id": name, "state": state}
        with self._change:
            if self.vm is vm:
                self._current()
        return None

    def _current(self) -> Json:
        """The configuration without devices that the guest has let go; with _change held. Raises ApiError (404)."""
        if self.config is None:
            raise _not_created()
        vm = self.vm
        if vm is not None:
            before = self.config
            self.config = self._present(before, vm)
            if self.config is not before:
                self._drop_unused_fds(self.config)
        return self.config

    def _present(self, config: Json, vm: Vm, known: Json | None = None) -> Json:
        """The configuration without what the machine no longer has; the same object if that is nothing.

        `known` is an earlier configuration: what it did not have stays, the machine was never given it.
        """
        known = config if known is None else known
        devices = vm.devices()
        types = {device["type"] for device in devices}
        off = [part.field for part in sections.SECTIONS
               if part.shape == "switch" and config.get(part.field) and known.get(part.field)
               and part.type not in types]  # fmt: skip
        if off:
            config = {**config, **dict.fromkeys(off, False)}
        gone = (_ids(config) & _ids(known)) - {device["id"] for device in devices} - self._silent
        return _without(config, gone) if gone else config

    def _drop_fds(self, name: str) -> None:
        _close(self._fds.pop(name, []))

    def _drop_unused_fds(self, config: Json) -> None:
        for name in self._fds.keys() - _ids(config):
            self._drop_fds(name)

    def resize(self, cpus: int | None, memory: int | None, balloon: int | None) -> None:
        with self._change:
            config, vm = copy.deepcopy(self._current()), self.vm
            if balloon is not None and config.get("balloon") is None:
                raise ApiError(HTTPStatus.BAD_REQUEST, "desired_balloon: the VM has no balloon; create it with one")
            if cpus is not None:
                config["cpus"]["boot_vcpus"] = cpus
            if balloon is not None:
                config["balloon"]["size"] = balloon
            if vm is None:
                if memory is not None:
                    _set_size(config["memory"], memory)
                config = configs.check_parts(config)
            else:
                vm.resize(cpus, memory, balloon)
                if memory is not None:
                    config["memory"]["hotplugged_size"] = max(0, memory - config["memory"]["size"])
                self._learn_memory(vm)
            self.config = config

    def resize_zone(self, name: str, size: int) -> None:
        with self._change:
            config, vm = copy.deepcopy(self._current()), self.vm
            zones = [zone for zone in config["memory"].get("zones") or () if zone["id"] == name]
            if not zones:
                raise ApiError(HTTPStatus.NOT_FOUND, f"there is no memory zone '{name}'")
            if vm is None:
                _set_size(zones[0], size)
                config = configs.check_parts(config)
            else:
                vm.resize_zone(name, size)
                zones[0]["hotplugged_size"] = max(0, size - zones[0]["size"])
                self._learn_memory(vm)
            self.config = config

    def resize_disk(self, name: str, size: int) -> None:
        vm = self._booted()
        if (name, "disk") not in {(device["id"], device["type"]) for device in vm.devices()}:
            raise ApiError(HTTPStatus.NOT_FOUND, f"there is no disk '{name}'")
        vm.resize_disk(name, size)


def _not_created() -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, "the VM is not created; vm.create does that")


def _not_booted() -> ApiError:
    return ApiError(HTTPStatus.METHOD_NOT_ALLOWED, "the VM is not booted; vm.boot does that")


def _no_device(name: str) -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, f"there is no device '{name}'")


def _set_size(part: Json, size: int) -> None:
    """Have memory start with `size` bytes in all: none of them is plugged in later any more."""
    part["size"] = size
    part.pop("hotplugged_size", None)


def _memory_changes(config: Json) -> bool:
    parts = [config["memory"], *(config["memory"].get("zones") or ())]
    return config.get("balloon") is not None or any(part.get("hotplug_size") for part in parts)


def _node(device: Json) -> Json:
    node: Json = {"id": device["id"], "type": device["type"], "resources": [], "children": []}
    if device["bdf"] is not None:
        node["pci_bdf"] = device["bdf"]
    if device["removing"]:
        node["removing"] = True
    return node


def _with(config: Json, section: sections.Section, entry: Json) -> Json:
    """The configuration with one device more."""
    if section.shape == "list":
        return {**config, section.field: [*(config.get(section.field) or ()), entry]}
    return {**config, section.field: entry if section.shape == "one" else True}


def _without(config: Json, names: set[str]) -> Json:
    """The configuration without some devices."""
    found: Json = {}
    for key, value in config.items():
        if isinstance(value, list):
            kept = [item for item in value if not (isinstance(item, dict) and item.get("id") in names)]
            if kept or not value:
                found[key] = kept
        elif not (key in sections.BY_FIELD and isinstance(value, dict) and value.get("id") in names):
            found[key] = value
    return found


def _ids(config: Json) -> set[str]:
    """The ids of all devices in a configuration."""
    return {
        item["id"]
        for key, value in config.items()
        for item in (value if isinstance(value, list) else [value])
        if key not in _NO_DEVICES and isinstance(item, dict) and "id" in item
    }


def _own(fds: list[int]) -> None:
    """Take over descriptors that flags name; no program that is started gets them. Raises UserError."""
    for index, fd in enumerate(fds):
        # A plan's own check is too late: it gets copies, which have numbers of their own.
        if fd <= 2 or fd in fds[:index]:
            raise UserError("--net fd=", f"{fd} is in use already", "pass a descriptor for this device alone")
        try:
            os.set_inheritable(fd, False)
        except OSError:
            raise UserError("--net fd=", f"{fd} is no open file", "pass one that was opened before") from None


def _lend(fds: list[int]) -> list[int]:
    """Copies for a plan, which takes them over."""
    return [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD) for fd in fds]


def _close(fds: list[int]) -> None:
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass
    fds.clear()
