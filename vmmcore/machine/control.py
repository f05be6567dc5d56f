# SPDX-License-Identifier: Apache-2.0
"""Answering the front: one datagram, one request, one answer (see wire.py). Imported only with a control socket."""

from __future__ import annotations

import os
import sys
from _socket import MSG_DONTWAIT

from vmmcore import wire
from vmmcore.errors import ExitCode, VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .assembly import Machine
    from .hotplug import Filling
    from .runner import Runner


#: an operation's answer that it gives itself, when it is through
LATER: dict[str, Any] = {}


class Control:
    """The runner's end of the control socket."""

    def __init__(self, runner: Runner, fd: int) -> None:
        self.runner, self.fd = runner, fd
        self.socket = wire.from_fd(fd)
        self.gone = False
        self._watched: Machine | None = None

    def event(self, name: str, data: dict[str, Any]) -> None:
        self._send({"event": name, **data})

    def _send(self, message: dict[str, Any]) -> None:
        if self.gone:
            return
        try:
            wire.send(self.socket, message)
        except (OSError, ValueError):
            self.gone = True

    def on_readable(self, fd: int, events: int) -> None:
        """Handle one request. A front that is gone ends the VM."""
        fds: list[int] = []
        try:
            received = wire.receive(self.socket, MSG_DONTWAIT)
            if received is None:
                raise ConnectionResetError
            message, fds = received
        except BlockingIOError:
            return
        except OSError:
            self.gone = True
            self.runner.end(ExitCode.FAILURE, "the front is gone")
            return
        except ValueError as error:
            self._send({"id": 0, "error": str(error)})
            return
        try:
            self._answer(message, lambda: self._do(message, fds))
        finally:
            for left in fds:
                os.close(left)

    def _answer(self, message: dict[str, Any], work: Callable[[], dict[str, Any] | None]) -> None:
        answer: dict[str, Any] = {"id": message.get("id", 0)}
        try:
            done = work()
            if done is LATER:
                return
            answer["ok"] = done or {}
        except VmmError as error:
            answer["error"] = str(error)
        except Exception as error:  # a device's bug must not end the VM
            answer["error"] = f"{type(error).__name__}: {error}"
            answer["bug"] = True
        self._send(answer)

    def _do(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        machine = self.runner.machine
        operation = OPERATIONS.get(str(message.get("op")))
        if operation is None or machine is None:
            raise VmmError(f"unknown request {message.get('op')!r}")
        return operation(self, machine, message, fds)

    # --- the operations ---

    def ping(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        return {"pid": os.getpid()}

    def info(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        from . import hotplug

        return {
            "id": machine.plan["id"],
            "state": machine.state,
            "vcpus": len(machine.vcpus),
            "max_vcpus": machine.plan["cpus"]["max"],
            "memory": hotplug.memory_size(machine),
            "memory_actual": hotplug.actual_size(machine),
            "memory_slots": machine.memory.slots(),
            "devices": [
                {"id": id, "type": type(d).__name__, "state": "removing" if id in machine.removing else d.state}
                for id, d in machine.devices.items()
            ],
        }

    def pause(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> None:
        machine.pause()
        self.event("paused", {})

    def resume(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> None:
        machine.resume()
        self.event("resumed", {})

    def boot(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> None:
        if machine.state != "created":
            raise VmmError(f"the VM is {machine.state}, it has been booted")
        machine.resume()
        self.event("booted", {})

    def reboot(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> None:
        self.runner.reboot = True

    def shutdown(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> None:
        self.runner.end(ExitCode.OK, "shutdown")

    def power_button(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> None:
        machine.platform.power_button()

    def nmi(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> None:
        machine.nmi()

    def resize(
        self, machine: Machine, message: dict[str, Any], fds: list[int], filled: Filling | None = None
    ) -> dict[str, Any] | None:
        """CPUs, bytes of memory, bytes of the balloon, as the message has them: all, or none where one is refused.

        Called again with what was `filled`, where memory had to be populated first.
        """
        from . import hotplug

        def go_on(filled: Filling) -> None:
            self._answer(message, lambda: self.resize(machine, message, [], filled))

        if filled is not None:
            filled.check()
        elif machine.filling is not None:
            raise VmmError("another resize is under way, whose memory is being populated (prefault=on)")
        cpus, memory, balloon = (_number(message, key) for key in ("cpus", "memory", "balloon"))
        balloons = [d for d in machine.devices.values() if hasattr(d, "resize_balloon")]
        if balloon is not None and not balloons:
            raise VmmError("balloon: this VM has none (--balloon)")
        if cpus is not None:
            hotplug.check_cpus(machine, cpus)
        if memory is not None:
            hotplug.check_memory(machine, memory)
        if memory is not None and filled is None and hotplug.fill_memory(machine, memory, go_on):
            return LATER
        made = hotplug.make_cpus(machine, cpus) if cpus is not None else []
        try:
            if memory is not None:
                hotplug.resize_memory(machine, memory, filled)
        except BaseException:
            hotplug.unmake_cpus(machine, made)
            raise
        if cpus is not None:
            hotplug.resize_cpus(machine, cpus, made)
        if balloon is not None:
            balloons[0].resize_balloon(balloon)
        return None

    def resize_zone(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> None:
        from . import hotplug

        size = _number(message, "bytes")
        if size is None:
            raise VmmError("bytes: missing")
        hotplug.check_zone(machine, str(message.get("zone")), size)
        hotplug.resize_zone(machine, str(message.get("zone")), size)

    def counters(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        return machine.counters()

    def add_device(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        from . import pci_hotplug

        spec: dict[str, Any] = message["device"]
        for name, root in message.get("modules", {}).items():
            machine.plan["modules"].setdefault(name, root)
        self.runner.extend_path(message.get("user_path") or [])
        running = machine.state
        device = machine.add_device(spec, fds)
        try:
            if running == "running":
                device._enter("activated")
            machine.plan["devices"].append(pci_hotplug.keep_files(machine.plan, spec, fds))
            self._watch(machine)
            pci_hotplug.announce(machine, device)
        except BaseException:
            machine.remove_device(device.id)
            pci_hotplug.drop(machine.plan, device.id)
            raise
        self.event("device-added", _named(machine.plan, device.id))
        return {"id": device.id}

    def remove_device(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Ask the guest to let go of it, or with `force` take it away; where the guest cannot be asked, too."""
        from . import pci_hotplug

        device_id = str(message.get("device"))
        device = machine.devices.get(device_id)
        if device is None:
            raise VmmError(f"no device '{device_id}'")
        self._watch(machine)
        if not message.get("force") and pci_hotplug.ask(machine, device):
            self.event("device-remove-pending", _named(machine.plan, device_id))
            return {"state": "pending"}
        pci_hotplug.take(machine, device_id)
        self._removed(machine, device_id)
        return {"state": "removed"}

    def _removed(self, machine: Machine, device_id: str) -> None:
        from . import pci_hotplug

        named = _named(machine.plan, device_id)
        pci_hotplug.drop(machine.plan, device_id)
        self.event("device-removed", named)

    def _watch(self, machine: Machine) -> None:
        """From now on hear what the guest ejects."""
        from . import pci_hotplug

        def look() -> None:
            for device_id in pci_hotplug.ejected(machine):
                machine.remove_device(device_id)
                self._removed(machine, device_id)

        if self._watched is not machine:
            self._watched = machine
            machine.on_hotplug.append(look)

    def rebooted(self, machine: Machine) -> None:
        """What the guest of the closed machine was asked to let go of is not in the next one."""
        for device_id in sorted(machine.removing):
            self._removed(machine, device_id)

    def reload_device(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> None:
        from .reload import reload_device

        reload_device(machine, str(message.get("device")))

    def device(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Call one of a device's `operations`."""
        device_id, method, arguments = str(message.get("device")), message.get("method"), message.get("args") or {}
        device = machine.devices.get(device_id)
        if device is None:
            raise VmmError(f"no device '{device_id}'")
        if method not in device.operations:
            known = ", ".join(device.operations) or "none"
            raise VmmError(f"{device_id}: no operation {method!r}; it has: {known}")
        try:
            return {"result": getattr(device, sys.intern(method))(**arguments)}
        except TypeError as error:
            raise VmmError(f"{device_id}: {error}") from None

    def save(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        if machine.state != "paused":
            raise VmmError(f"the VM is {machine.state}; pause it before saving its devices")
        return {"devices": {id: device._save() for id, device in machine.devices.items()}}


def _number(message: dict[str, Any], key: str) -> int | None:
    value = message.get(key)
    if value is not None and (type(value) is not int or value < 0):
        raise VmmError(f"{key}: {value!r} is no number from 0")
    return value


def _named(plan: dict[str, Any], device_id: str) -> dict[str, str]:
    """What events say of a device: its id and, on PCI, where it is."""
    for spec in plan["devices"]:
        if spec["id"] == device_id and spec.get("bus") == "pci":
            return {"device": device_id, "bdf": f"{spec.get('segment', 0):04x}:00:{spec['slot']:02x}.0"}
    return {"device": device_id}


OPERATIONS = {
    "ping": Control.ping, "info": Control.info, "pause": Control.pause, "resume": Control.resume,
    "boot": Control.boot, "reboot": Control.reboot, "shutdown": Control.shutdown,
    "power-button": Control.power_button, "counters": Control.counters, "add-device": Control.add_device,
    "remove-device": Control.remove_device, "reload-device": Control.reload_device,
    "device": Control.device, "save": Control.save,
    "resize": Control.resize, "resize-zone": Control.resize_zone, "nmi": Control.nmi,
}
