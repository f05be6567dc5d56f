# SPDX-License-Identifier: Apache-2.0
"""The device types that may be used here, and the JSON forms of all that a VM is made of."""

from __future__ import annotations

import threading

from vmmcore.errors import PluginError, UserError, VmmError
from vmmcore.front import zones
from vmmcore.front.config import Cpus, Memory
from vmmcore.front.plugins import Plugins

from . import sections
from .errors import NotServed
from .forms import BOOL, COUNT, TEXT, Form, Part
from .schema import array
from .sections import Section

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from vmmcore.hooks import DeviceType

    from .schema import Schema


class _Topology(Part):
    field, keys = "topology", ("topology",)
    names = ("threads_per_core", "cores_per_die", "dies_per_package", "packages")
    schema: Schema = {
        "type": "object", "additionalProperties": False, "required": list(names),
        "properties": {name: {"type": "integer", "minimum": 1, "maximum": 65535} for name in names},
    }  # fmt: skip

    def read(self, value: Any, where: str) -> dict[str, Any]:
        return {"topology": [int(value[name]) for name in self.names]}

    def show(self, values: dict[str, Any]) -> Any:
        topology = values.get("topology")
        return dict(zip(self.names, topology, strict=True)) if topology else None


class _Affinity(Part):
    field, keys = "affinity", ("affinity",)
    schema = array({"type": "object", "additionalProperties": False, "required": ["vcpu", "host_cpus"],
                    "properties": {"vcpu": COUNT, "host_cpus": array(COUNT)}})  # fmt: skip

    def read(self, value: Any, where: str) -> dict[str, Any]:
        return {"affinity": {int(item["vcpu"]): [int(cpu) for cpu in item["host_cpus"]] for item in value}}

    def show(self, values: dict[str, Any]) -> Any:
        affinity = values.get("affinity")
        return [{"vcpu": vcpu, "host_cpus": cpus} for vcpu, cpus in affinity.items()] if affinity else None


class _Nested(Part):
    field, keys, schema = "nested", ("features",), {**BOOL, "description": "virtualization in the guest"}

    def read(self, value: Any, where: str) -> dict[str, Any]:
        return {"features": ["nested"] if value else []}

    def show(self, values: dict[str, Any]) -> Any:
        return "nested" in values["features"]


class _Features(Part):
    field, keys = "features", ("features",)
    schema: Schema = {"type": "object", "additionalProperties": BOOL,
                      "description": "words of cpus features= that are true"}  # fmt: skip

    def read(self, value: Any, where: str) -> dict[str, Any]:
        return {"features": [word for word, wanted in value.items() if wanted]}

    def show(self, values: dict[str, Any]) -> Any:
        return {"amx": False} | {word: True for word in values["features"] if word != "nested"}


CPUS = Form(
    "CpusConfig", Cpus, rename={"boot_vcpus": "boot", "max_vcpus": "max"},
    parts=[_Topology(), _Affinity(), _Nested(), _Features()],
    extras={"kvm_hyperv": (BOOL, (False,)), "profile": ({"type": "string", "enum": ["Host"]}, ("Host",)),
            "core_scheduling": ({"type": "string", "enum": ["Off", "Vm", "Vcpu"]}, ("Off", "Vm"))},
)  # fmt: skip


class _Distances(Part):
    field, keys = "distances", ("distances",)
    schema = array({"type": "object", "additionalProperties": False, "required": ["destination", "distance"],
                    "properties": {"destination": COUNT, "distance": COUNT}})  # fmt: skip

    def read(self, value: Any, where: str) -> dict[str, Any]:
        return {"distances": {int(item["destination"]): int(item["distance"]) for item in value}}

    def show(self, values: dict[str, Any]) -> Any:
        found = [{"destination": node, "distance": far} for node, far in values["distances"].items()]
        return found or None


_LATER: dict[str, tuple[Schema, tuple[Any, ...]]] = {
    f"system_{key}": (TEXT, ()) for key in ("manufacturer", "product_name", "version", "family", "sku_number")
}
MEMORY = Form("MemoryConfig", Memory, words={"hotplug_method": ()}, extras={"reserve": (BOOL, (False,))})
ZONE = Form("MemoryZoneConfig", zones.MemoryZone, extras={"reserve": (BOOL, (False,))})
NUMA = Form("NumaConfig", zones.Numa, parts=[_Distances()], extras={"device_id": (TEXT, ())})
SEGMENT = Form("PciSegmentConfig", zones.PciSegment)
PLATFORM = Form(
    "PlatformConfig", zones.Platform, rename={"system_serial_number": "serial_number", "system_uuid": "uuid"},
    aliases={"serial_number": "system_serial_number", "uuid": "system_uuid"},
    extras={**_LATER, "chassis_asset_tag": (TEXT, ()), "iommu_segments": (array(COUNT), ([],)),
            "iommu_address_width_bits": (COUNT, (64,)), "tdx": (BOOL, (False,)), "sev_snp": (BOOL, (False,)),
            "iommufd": (BOOL, (False,)), "iommufd_fd": ({"type": "integer"}, ()), "vfio_p2p_dma": (BOOL, (True,))},
)  # fmt: skip


class Catalog:
    """What requests may name. Loads plugins of its own, so that none of them observes a VM because of a document."""

    def __init__(self, named: Iterable[str], default_plugins: bool) -> None:
        self._lock = threading.Lock()
        self._plugins = Plugins(named, default_plugins=default_plugins, warn=lambda line: None)
        for name in self._plugins.named:
            self._plugins.load_named(name)
        self._forms: dict[str, Form] = {}

    def kind(self, key: str, where: str) -> DeviceType:
        """The device type of this key. Raises NotServed (the anchor has it), UserError, PluginError."""
        with self._lock:
            if key in sections.BY_TYPE and not self._offered(key):
                raise NotServed(where)
            return self._plugins.device_type(key, where)[1]

    def _offered(self, key: str) -> bool:
        return self._plugins.offers(key) or any(
            kind.key == key for plugin in self._plugins.loaded for kind in plugin.device_types
        )

    def form(self, kind: DeviceType) -> Form:
        """The JSON form of a device of this type."""
        with self._lock:
            if kind.key not in self._forms:
                self._forms[kind.key] = sections.form_of(kind)
            return self._forms[kind.key]

    def kinds(self) -> list[DeviceType]:
        """All usable device types, sorted by key; plugins that cannot be loaded are left out."""
        found: dict[str, DeviceType] = {}
        with self._lock:
            for key in self._plugins.discovery.group("vmmcore.flags"):
                try:
                    found[key] = self._plugins.device_type(key, f"--{key}")[1]
                except (UserError, PluginError):
                    continue
            found |= {kind.key: kind for plugin in self._plugins.loaded for kind in plugin.device_types}
        return [found[key] for key in sorted(found) if found[key].bus != "front"]

    def sections(self) -> list[tuple[Section, DeviceType | None]]:
        """The parts of VmConfig that are devices, in order; None: no plugin provides it."""
        kinds = {kind.key: kind for kind in self.kinds()}
        known = [(section, kinds.pop(section.type, None)) for section in sections.SECTIONS]
        return known + [(sections.section_of(kind), kind) for kind in kinds.values()]

    def usable(self, key: str) -> bool:
        """Whether the device type can be had, without saying why not."""
        try:
            self.kind(key, key)
        except VmmError:
            return False
        return True
