# SPDX-License-Identifier: Apache-2.0
"""The calls of the API, one row each: what the server routes, what the document lists, and what ``vmm ctl`` offers."""

from __future__ import annotations

import os

from vmmcore import __version__

from . import sections
from .errors import NotServed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from vmmcore.hooks import DeviceType

    from .catalog import Catalog
    from .host import Host

    Json = dict[str, Any]
    Do = Callable[[Host, Json, list[int]], Any]

ROOT = "/api/v1"
#: what the answers mean; 400 and 500 may come from every call
MEANINGS = {
    400: "The request is malformed, or a value in it is not possible; the answer says which and why.",
    404: "The VM is not created, or has no such part.",
    405: "The VM is not in a state for this.",
    409: "The id is taken, or there may be one such device only.",
    429: "An earlier request of this kind is not finished.",
    500: "vmm or the VM failed.",
    501: "A part of Cloud Hypervisor's API that vmm does not serve yet.",
}


class Call:
    """One call: `name` is its path below ROOT.

    body    the schema of what it takes, or None
    answer  the schema of what a 200 holds, or None: it answers 204
    errors  statuses that it can fail with, beyond 400 and 500
    do      what does it: (host, body, descriptors) -> the answer, None for 204
    """

    def __init__(self, method: str, name: str, summary: str, do: Do, *, body: str | None = None,
                 answer: str | None = None, errors: tuple[int, ...] = (), empty: bool = False) -> None:  # fmt: skip
        self.method, self.name, self.summary, self.do = method, name, summary, do
        self.body, self.answer, self.errors = body, answer, errors
        #: may answer 204 although it has an answer
        self.empty = empty


def ping(*_: Any) -> Json:
    return {"build_version": f"v{__version__}", "version": __version__, "pid": os.getpid(), "features": ["kvm"]}


def _later(name: str) -> Do:
    def do(*_: Any) -> None:
        raise NotServed(name)

    return do


def _number(body: Json, key: str) -> int | None:
    return None if body.get(key) is None else int(body[key])


MACHINE: tuple[Call, ...] = (
    Call("GET", "vmm.ping", "Is somebody there?", ping, answer="VmmPingResponse"),
    Call("PUT", "vmm.shutdown", "End the VM, if there is one, and this process.", lambda host, *_: host.delete()),
    Call("GET", "vm.info", "What the VM is and in which state.", lambda host, *_: host.info(), answer="VmInfo",
         errors=(404,)),
    Call("GET", "vm.counters", "Counters of devices and vCPUs.", lambda host, *_: host.counters(),
         answer="VmCounters", errors=(404, 405)),
    Call("PUT", "vm.create", "Describe the VM; it is built by vm.boot.", lambda host, body, _: host.create(body),
         body="VmConfig", errors=(405, 409, 501)),
    Call("PUT", "vm.delete", "End the VM if it runs, and forget it.", lambda host, *_: host.delete()),
    Call("PUT", "vm.boot", "Build the VM and let it run.", lambda host, *_: host.boot(), errors=(404, 405, 409, 501)),
    Call("PUT", "vm.shutdown", "End the VM; it can be booted again.", lambda host, *_: host.shutdown(),
         errors=(404, 405)),
    Call("PUT", "vm.reboot", "Reset the VM.", lambda host, *_: host.reboot(), errors=(404, 405)),
    Call("PUT", "vm.power-button", "Press the power button.", lambda host, *_: host.power_button(),
         errors=(404, 405)),
    Call("PUT", "vm.pause", "Stop the vCPUs.", lambda host, *_: host.pause(), errors=(404, 405)),
    Call("PUT", "vm.resume", "Let the vCPUs go on.", lambda host, *_: host.resume(), errors=(404, 405)),
    Call("PUT", "vm.nmi", "Send a non-maskable interrupt to every vCPU.", lambda host, *_: host.nmi(),
         errors=(404, 405)),
    Call("PUT", "vm.resize", "Change the number of vCPUs, the memory, the balloon.",
         lambda host, body, _: host.resize(_number(body, "desired_vcpus"), _number(body, "desired_ram"),
                                           _number(body, "desired_balloon")),
         body="VmResize", errors=(404, 405, 429)),
    Call("PUT", "vm.resize-disk", "Make a disk's image longer or shorter, and tell the guest.",
         lambda host, body, _: host.resize_disk(body["id"], int(body["desired_size"])),
         body="VmResizeDisk", errors=(404, 405)),
    Call("PUT", "vm.resize-zone", "Change the size of a memory zone.",
         lambda host, body, _: host.resize_zone(body["id"], int(body["desired_ram"])),
         body="VmResizeZone", errors=(404, 405)),
    Call("PUT", "vm.remove-device", "Remove a device; 200 if the guest has yet to let it go.",
         lambda host, body, _: host.remove(body["id"], bool(body.get("force"))),
         body="VmRemoveDevice", answer="VmRemoval", empty=True, errors=(404, 405)),
)  # fmt: skip
_LATER: tuple[tuple[str, str, str], ...] = (
    ("vm.snapshot", "Write the VM's state to files.", "VmSnapshotConfig"),
    ("vm.restore", "Go on from a snapshot.", "RestoreConfig"),
    ("vm.coredump", "Write the guest's memory for a debugger.", "VmCoredumpData"),
    ("vm.receive-migration", "Take over a VM.", "ReceiveMigrationData"),
    ("vm.send-migration", "Hand the VM over.", "SendMigrationData"),
)


def table(catalog: Catalog) -> list[Call]:
    """All calls that answer with JSON."""
    calls = [*MACHINE]
    calls += [Call("PUT", name, text, _later(name), body=body, errors=(501,)) for name, text, body in _LATER]
    for section, kind in catalog.sections():
        if section.call:
            calls.append(_adding(f"vm.{section.call}", section, kind))
        if kind is not None:
            calls.append(_adding(f"vm.add-device-type/{kind.key}", section, kind))
    return calls


def _adding(name: str, section: sections.Section, kind: DeviceType | None) -> Call:
    if kind is None:
        return Call("PUT", name, f"Add a device: {section.field}.", _later(name), body=section.schema,
                    answer="PciDeviceInfo", empty=True, errors=(501,))  # fmt: skip
    found = kind

    def do(host: Host, body: Json, fds: list[int]) -> Json | None:
        return host.add(found, body, fds)

    return Call("PUT", name, f"Add a device: {kind.doc or kind.key}.", do, body=section.schema,
                answer="PciDeviceInfo", empty=True, errors=(404, 405, 409, 501))  # fmt: skip


def by_path(calls: Iterable[Call]) -> dict[str, Call]:
    return {f"{ROOT}/{call.name}": call for call in calls}
