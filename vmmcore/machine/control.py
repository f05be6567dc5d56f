# SPDX-License-Identifier: Apache-2.0
"""Answering the front: one datagram, one request, one answer (see wire.py). Imported only with a control socket."""

from __future__ import annotations

import os
from _socket import MSG_DONTWAIT

from vmmcore import wire
from vmmcore.errors import ExitCode, VmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .assembly import Machine
    from .runner import Runner


class Control:
    """The runner's end of the control socket."""

    def __init__(self, runner: Runner, fd: int) -> None:
        self.runner, self.fd = runner, fd
        self.socket = wire.from_fd(fd)
        self.gone = False

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
        answer: dict[str, Any] = {"id": message.get("id", 0)}
        try:
            answer["ok"] = self._do(message, fds)
        except VmmError as error:
            answer["error"] = str(error)
        except Exception as error:  # a device's bug must not end the VM
            answer["error"] = f"{type(error).__name__}: {error}"
        finally:
            for left in fds:
                os.close(left)
        self._send(answer)

    def _do(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        machine = self.runner.machine
        operation = OPERATIONS.get(str(message.get("op")))
        if operation is None or machine is None:
            raise VmmError(f"unknown request {message.get('op')!r}")
        return operation(self, machine, message, fds) or {}

    # --- the operations ---

    def ping(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        return {"pid": os.getpid()}

    def info(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        return {
            "id": machine.plan["id"],
            "state": machine.state,
            "vcpus": machine.plan["cpus"]["boot"],
            "memory": sum(size for _, size in machine.memory.regions),
            "devices": [{"id": id, "type": type(d).__name__, "state": d.state} for id, d in machine.devices.items()],
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

    def counters(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        return machine.counters()

    def add_device(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        spec: dict[str, Any] = message["device"]
        for name, root in message.get("modules", {}).items():
            machine.plan["modules"].setdefault(name, root)
        self.runner.extend_path(message.get("user_path") or [])
        running = machine.state
        device = machine.add_device(spec, fds)
        if running == "running":
            device._enter("activated")
        # A reboot builds the machine with it: its files stay open, under new numbers.
        base = len(machine.plan["fds"])
        machine.plan["fds"] += fds
        kept = {**spec, "files": {name: base + index for name, index in (spec.get("files") or {}).items()}}
        fds.clear()
        machine.plan["devices"].append(kept)
        self.event("device-added", {"device": device.id})
        return {"id": device.id}

    def remove_device(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> None:
        device_id = str(message.get("device"))
        machine.remove_device(device_id)
        plan = machine.plan
        for spec in [d for d in plan["devices"] if d["id"] == device_id]:
            plan["devices"].remove(spec)
            for index in (spec.get("files") or {}).values():
                if plan["fds"][index] > 2 and not _used(plan, index):
                    os.close(plan["fds"][index])
                    plan["fds"][index] = -1
        self.event("device-removed", {"device": device_id})

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
            return {"result": getattr(device, method)(**arguments)}
        except TypeError as error:
            raise VmmError(f"{device_id}: {error}") from None

    def save(self, machine: Machine, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        if machine.state != "paused":
            raise VmmError(f"the VM is {machine.state}; pause it before saving its devices")
        return {"devices": {id: device._save() for id, device in machine.devices.items()}}


def _used(plan: dict[str, Any], index: int) -> bool:
    if any(index in (d.get("files") or {}).values() for d in plan["devices"]):
        return True
    return any(part.get("file") == index for part in plan["load"])


OPERATIONS = {
    "ping": Control.ping, "info": Control.info, "pause": Control.pause, "resume": Control.resume,
    "boot": Control.boot, "reboot": Control.reboot, "shutdown": Control.shutdown,
    "power-button": Control.power_button, "counters": Control.counters, "add-device": Control.add_device,
    "remove-device": Control.remove_device, "reload-device": Control.reload_device,
    "device": Control.device, "save": Control.save,
}
