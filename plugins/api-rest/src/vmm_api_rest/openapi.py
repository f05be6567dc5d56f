# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 document, from the calls and the options of the plugins that are installed."""

from __future__ import annotations

from vmmcore import __version__
from vmmcore.front.config import Firmware

from .calls import MEANINGS, ROOT, table
from .catalog import CPUS, MEMORY, NUMA, PLATFORM, SEGMENT, ZONE
from .forms import BOOL, COUNT, TEXT
from .schema import array, nullable, ref
from .sections import REQUIRED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .calls import Call
    from .catalog import Catalog
    from .schema import Schema

EVENTS, METRICS, DOCUMENT = f"{ROOT}/events", f"{ROOT}/metrics", f"{ROOT}/openapi.json"
__all__ = ["DOCUMENT", "EVENTS", "METRICS", "document", "schemas"]


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object of these fields; those that are not required may be null."""
    shown = {key: schema if key in required else nullable(schema) for key, schema in properties.items()}
    result: Schema = {"type": "object", "additionalProperties": False, "properties": shown}
    return {**result, "required": list(required)} if required else result


ID: Schema = {"type": "string", "minLength": 1}
BYTES: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1}
URL: Schema = TEXT
_STATE: Schema = {"type": "string", "enum": ["Created", "Running", "Shutdown", "Paused", "BreakPoint"]}


def _bodies() -> dict[str, Schema]:
    """Schemas of bodies and answers that are no configuration."""
    update = array(_object(("id", "host_numa_node"), id=ID, host_numa_node=COUNT))
    number: Schema = {"type": "integer"}  # of a descriptor: those that count come by SCM_RIGHTS
    vfio = array(_object(("id",), id=ID, fd=number))
    nets = array(_object(("id",), id=ID, num_fds=COUNT, fds=array(number)))
    return {
        "VmResize": _object(desired_vcpus={"type": "integer", "minimum": 1}, desired_ram=BYTES, desired_balloon=BYTES),
        "VmResizeDisk": _object(("id", "desired_size"), id=ID, desired_size=BYTES),
        "VmResizeZone": _object(("id", "desired_ram"), id=ID, desired_ram=BYTES),
        "VmRemoveDevice": _object(("id",), id=ID, force={**BOOL, "description": "do not ask the guest"}),
        "VmRemoval": _object(("id", "state"), id=ID, state={"type": "string", "enum": ["pending"]}),
        "VmSnapshotConfig": _object(destination_url=URL),
        "VmCoredumpData": _object(destination_url=URL),
        "RestoreConfig": _object(
            ("source_url",), source_url=URL, prefault=BOOL, resume=BOOL, zone_updates=update,
            net_fds=nets, vfio_fds=vfio, iommufd_fd=number,
            memory_restore_mode={"type": "string", "enum": ["Copy", "OnDemand"]}),
        "ReceiveMigrationData": _object(
            ("receiver_url",), receiver_url=URL, tls_dir=TEXT, zone_updates=update, vfio_fds=vfio, iommufd_fd=number,
            memory_mode={"type": "string", "enum": ["Precopy", "Postcopy"]}),
        "SendMigrationData": _object(
            ("destination_url",), destination_url=URL, local=BOOL, preserve_source=BOOL, tls_dir=TEXT,
            downtime_ms={"type": "integer", "minimum": 1}, timeout_s={"type": "integer", "minimum": 1},
            timeout_strategy={"type": "string", "enum": ["Cancel", "Ignore"]},
            connections={"type": "integer", "minimum": 1, "maximum": 128},
            memory_mode={"type": "string", "enum": ["Precopy", "Postcopy"]}),
        "VmmPingResponse": _object(("version",), build_version=TEXT, version=TEXT, pid=COUNT, features=array(TEXT)),
        "PciDeviceInfo": _object(("id", "bdf"), id=TEXT, bdf=TEXT),
        "VmCounters": {"type": "object",
                       "additionalProperties": {"type": "object", "additionalProperties": {"type": "integer"}}},
        "DeviceNode": _object(("id",), id=TEXT, type=TEXT, resources=array({"type": "object"}), children=array(TEXT),
                              pci_bdf=TEXT, removing={**BOOL, "description": "the guest was asked to let it go"}),
        "VmInfo": _object(("config", "state"), config=ref("VmConfig"), state=_STATE, memory_actual_size=COUNT,
                          device_tree={"type": "object", "additionalProperties": ref("DeviceNode")}),
        "Error": {**array(TEXT), "description": "what was wrong, in one line each"},
    }  # fmt: skip


def schemas(catalog: Catalog) -> dict[str, Schema]:
    """The named schemas of the document: what requests are checked with."""
    found = _bodies()
    memory = MEMORY.schema()
    memory["properties"]["zones"] = nullable(array(ref(ZONE.name)))
    found |= {form.name: form.schema() for form in (CPUS, ZONE, NUMA, SEGMENT, PLATFORM)} | {MEMORY.name: memory}
    found["PayloadConfig"] = _object(
        kernel=TEXT, initramfs=TEXT, cmdline=TEXT, igvm=TEXT, host_data=TEXT, fw_cfg_config={"type": "object"},
        firmware={"anyOf": [TEXT, Firmware.schema()]})  # fmt: skip
    parts: dict[str, Schema] = {
        "cpus": ref(CPUS.name), "memory": ref(MEMORY.name), "payload": ref("PayloadConfig"),
        "platform": ref(PLATFORM.name), "numa": array(ref(NUMA.name)), "pci_segments": array(ref(SEGMENT.name)),
        "rate_limit_groups": array({"type": "object"}), "landlock_rules": array({"type": "object"}),
        "pvmemcontrol": {"type": "object"}, "ivshmem": {"type": "object"}, "gdb": {**BOOL, "default": False},
        "iommu": {**BOOL, "default": False}, "landlock_enable": {**BOOL, "default": False},
    }  # fmt: skip
    for section, kind in catalog.sections():
        schema = catalog.form(kind).schema() if kind is not None else _unserved(section.type)
        if kind is not None and kind.doc:
            schema["description"] = kind.doc
        found[section.schema] = schema
        one = {**BOOL, "default": False} if section.shape == "switch" else ref(section.schema)
        parts[section.field] = array(one) if section.shape == "list" else one
    found["VmConfig"] = _object(("payload",), **parts)
    return found


def _unserved(key: str) -> Schema:
    """A device of Cloud Hypervisor's that no plugin provides: anything, answered with 501."""
    required = REQUIRED.get(key, ())
    return {"type": "object", "description": "not served yet", "properties": {name: {} for name in required}}


def document(catalog: Catalog) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, Any] = {}
    for call in table(catalog):
        paths[f"/{call.name}"] = {call.method.lower(): _operation(call)}
    paths["/openapi.json"] = {"get": _other("This document.", "application/json", {"type": "object"}, "openapi")}
    paths["/metrics"] = {"get": _other("Metrics, as Prometheus reads them.", "text/plain", TEXT, "metrics")}
    paths["/events"] = {"get": _other("Events as they happen, as server-sent events; it does not end.",
                                      "text/event-stream", TEXT, "events", {"429": _error(429)})}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "vmm", "version": __version__, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                 "description": "Cloud Hypervisor's API, served by vmm."},
        "servers": [{"url": f"http://localhost{ROOT}"}],
        "paths": paths,
        "components": {"schemas": schemas(catalog)},
    }  # fmt: skip


#: what may follow a success of a call
_NEXT = {
    "vm.create": ("vm.boot", "vm.info", "vm.delete"),
    "vm.boot": ("vm.info", "vm.counters", "vm.pause", "vm.reboot", "vm.power-button", "vm.resize", "vm.shutdown"),
    "vm.pause": ("vm.resume", "vm.info", "vm.shutdown"),
    "vm.resume": ("vm.pause", "vm.info"),
    "vm.shutdown": ("vm.boot", "vm.delete"),
}


def _operation(call: Call) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    links: dict[str, Any] = {}
    for name in _NEXT.get(call.name, ()):
        links[_operation_id(name)] = {"operationId": _operation_id(name)}
    if call.answer == "PciDeviceInfo":
        body = {"id": "$response.body#/id"}
        links["remove"] = {"operationId": _operation_id("vm.remove-device"), "requestBody": body}
        if call.name == "vm.add-disk":
            links["resize"] = {"operationId": _operation_id("vm.resize-disk"), "requestBody": body}
    if call.answer is not None:
        responses["200"] = {"description": "Done.", "content": {"application/json": {"schema": ref(call.answer)}}}
    if call.answer is None or call.empty:
        responses["204"] = {"description": "Done."}
    if links:
        responses["200" if call.answer is not None else "204"]["links"] = links
    for status in sorted({400, 500, *call.errors}):
        responses[str(status)] = _error(status)
    operation: dict[str, Any] = {
        "operationId": _operation_id(call.name), "summary": call.summary, "responses": responses,
    }  # fmt: skip
    if call.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": ref(call.body)}}}
    return operation


def _operation_id(name: str) -> str:
    return "".join(word.capitalize() for word in name.replace(".", "-").replace("/", "-").split("-"))


def _error(status: int) -> dict[str, Any]:
    return {"description": MEANINGS[status], "content": {"application/json": {"schema": ref("Error")}}}


def _other(summary: str, kind: str, schema: Schema, name: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
    responses = {"200": {"description": "Done.", "content": {kind: {"schema": schema}}}, "400": _error(400)}
    return {"operationId": name, "summary": summary, "responses": responses | (more or {})}
