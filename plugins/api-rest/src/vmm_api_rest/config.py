# SPDX-License-Identifier: Apache-2.0
"""The VmConfig of the API's JSON: filled up with defaults, turned into vmm's configuration, and made from it.

It is kept as the JSON that ``vm.info`` shows, and compiled anew for each boot.
"""

from __future__ import annotations

from http import HTTPStatus

from vmmcore.errors import UserError
from vmmcore.front.config import Cpus, DeviceConfig, VmConfig
from vmmcore.front.devices import PLUGIN, DeviceOptions, PciOptions

from . import sections
from .catalog import CPUS, MEMORY, NUMA, PLATFORM, SEGMENT, ZONE
from .errors import ApiError, NotServed
from .forms import Descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from vmmcore.front.config import Firmware
    from vmmcore.hooks import DeviceType

    from .catalog import Catalog
    from .forms import Form
    from .sections import Section

    Json = dict[str, Any]

#: switches of Cloud Hypervisor's that do nothing here unless they are on
SWITCHES = ("iommu", "landlock_enable")
LATER = ("rate_limit_groups", "landlock_rules", "pvmemcontrol", "ivshmem", "gdb")
PAYLOAD = ("kernel", "initramfs", "cmdline", "firmware")
PAYLOAD_LATER = ("igvm", "host_data", "fw_cfg_config")


def complete(given: Json, catalog: Catalog) -> Json:
    """A VmConfig that fits the schema, with every default written out. Raises UserError, NotServed, ApiError (409)."""
    config = _show_parts(VmConfig(**_payload(given.get("payload") or {}), **_parts(given)))
    for key in SWITCHES:
        if given.get(key):
            raise NotServed(f"{key}=true")
    for key in LATER:
        if given.get(key) not in (None, False, []):
            raise NotServed(key)
    with_defaults = _default_devices(given, catalog) | {key: item for key, item in given.items() if item is not None}
    for section, kind in catalog.sections():
        value = with_defaults.get(section.field)
        if section.shape == "switch":
            config[section.field] = bool(value)
            if value:
                catalog.kind(section.type, section.field)
        elif value is not None and value != []:
            kind = kind or catalog.kind(section.type, section.field)
            if section.shape == "one":
                config[section.field] = complete_device(value, kind, section.field, catalog.form(kind))
            else:
                config[section.field] = [
                    complete_device(item, kind, f"{section.field}[{index}]", catalog.form(kind))
                    for index, item in enumerate(value)
                ]
    check_ids(config)
    return config


def check_parts(config: Json) -> Json:
    """A complete config after a change of its sizes. Raises UserError."""
    return config | _show_parts(VmConfig(**_payload(config["payload"]), **_parts(config)))


def _parts(config: Json) -> Json:
    """Arguments of vmm's VmConfig for what is no device and no payload. Raises UserError, NotServed."""
    memory = dict(config.get("memory") or {})
    zones = memory.pop("zones", None) or ()
    found: Json = {
        "cpus": Cpus.from_dict(CPUS.read(config.get("cpus") or {}, "cpus"), "cpus"),
        "memory": MEMORY.read(memory, "memory"),
        "memory_zones": [ZONE.read(zone, f"memory.zones[{index}]") for index, zone in enumerate(zones)],
    }
    if config.get("platform") is not None:
        found["platform"] = PLATFORM.read(config["platform"], "platform")
    for key, form in (("numa", NUMA), ("pci_segments", SEGMENT)):
        found[key] = [form.read(item, f"{key}[{index}]") for index, item in enumerate(config.get(key) or ())]
    return found


def _show_parts(config: VmConfig) -> Json:
    memory = MEMORY.show(config.memory.to_dict())
    if config.memory_zones:
        memory |= {"size": 0, "zones": [ZONE.show(zone.to_dict()) for zone in config.memory_zones]}
    payload: Json = {"kernel": config.kernel, "initramfs": config.initramfs, "cmdline": config.cmdline}
    if config.firmware is not None:
        payload["firmware"] = _firmware(config.firmware)
    found: Json = {
        "cpus": CPUS.show(config.cpus.to_dict()),
        "memory": memory,
        "payload": {key: value for key, value in payload.items() if value is not None},
        **dict.fromkeys(SWITCHES, False),
    }
    if config.platform is not None:
        found["platform"] = PLATFORM.show(config.platform.to_dict())
    if config.numa:
        found["numa"] = [NUMA.show(node.to_dict()) for node in config.numa]
    if config.pci_segments:
        found["pci_segments"] = [SEGMENT.show(segment.to_dict()) for segment in config.pci_segments]
    return found


def _payload(given: Json) -> Json:
    """Arguments of vmm's VmConfig for what is booted. Raises UserError, NotServed."""
    for key in PAYLOAD_LATER:
        if given.get(key) is not None:
            raise NotServed(f"payload.{key}")
    payload = {key: given[key] for key in PAYLOAD if given.get(key) is not None}
    if not payload.keys() & {"kernel", "firmware"}:
        raise UserError("payload", "nothing to boot", "give kernel or firmware")
    return payload


def _default_devices(given: Json, catalog: Catalog) -> Json:
    """What Cloud Hypervisor adds when nothing is said: a silent serial port, a console, a source of randomness."""
    found: Json = {}
    if catalog.usable("serial"):
        found["serial"] = {"mode": "Null"}
    if (given.get("serial") or {}).get("mode") != "Tty" and catalog.usable("console"):
        found["console"] = {"mode": "Tty"}
    if catalog.usable("rng"):
        found["rng"] = {"src": "/dev/urandom"}
    return {key: value for key, value in found.items() if given.get(key) is None}


def complete_device(given: Json, kind: DeviceType, where: str, form: Form, fds: list[int] | None = None) -> Json:
    """One device with every default written out. Raises UserError, NotServed."""
    return form.show(_values(form.read(given, where) | ({"fd": fds} if fds else {}), kind, where))


def _values(options: Json, kind: DeviceType, where: str) -> Json:
    """The values of all options of a device: its own and the common ones. Raises UserError."""
    common_class = PciOptions if kind.bus == "pci" else DeviceOptions
    declared = kind.options._options if kind.options is not None else {}
    common = {key: value for key, value in options.items() if key not in declared}
    own = {key: value for key, value in options.items() if key in declared}
    values = common_class.from_dict(common, where).to_dict()
    return values | (kind.options.from_dict(own, where).to_dict() if kind.options is not None else {})


def devices_of(config: Json, catalog: Catalog) -> Iterator[tuple[Section, DeviceType, Json | None]]:
    """Every device of a complete config: its part, its type, its JSON (None: the part is a switch that is on)."""
    for section, kind in catalog.sections():
        value = config.get(section.field)
        if kind is None or not value:
            continue
        if section.shape == "switch":
            yield section, kind, None
        else:
            for item in value if section.shape == "list" else [value]:
                yield section, kind, item


def check_ids(config: Json) -> None:
    """Raise ApiError (409) if two devices have one id."""
    seen: set[str] = set()
    for value in config.values():
        for item in value if isinstance(value, list) else [value]:
            name = item.get("id") if isinstance(item, dict) else None
            if name is not None and name in seen:
                raise ApiError(HTTPStatus.CONFLICT, f"'{name}' is already the id of another device; choose another")
            if name is not None:
                seen.add(name)


def name_devices(config: Json, catalog: Catalog) -> None:
    """Give an id to every device that has none, as the planner would."""
    items = [(section, item) for section, _, item in devices_of(config, catalog) if item is not None]
    taken = {item["id"] for _, item in items if item.get("id") is not None}
    for section, item in items:
        if item.get("id") is None:
            item["id"] = free_id(section.type, taken)
            taken.add(item["id"])


def free_id(key: str, taken: set[str]) -> str:
    """The next id of the usual form that is not taken."""
    number = 0
    while f"{key}{number}" in taken:
        number += 1
    return f"{key}{number}"


def to_vm_config(config: Json, base: VmConfig, catalog: Catalog, fds: dict[str, list[int]]) -> VmConfig:
    """vmm's configuration. `base` gives what the JSON has no words for, `fds` descriptors by device id."""
    devices = []
    for section, kind, item in devices_of(config, catalog):
        options = catalog.form(kind).read(item, section.field) if item is not None else {}
        if item is not None and fds.get(item.get("id", "")):
            options["fd"] = fds[item["id"]]
        devices.append(DeviceConfig(kind.key, options))
    return VmConfig(
        devices=devices + [device for device in base.devices if device.type == PLUGIN],
        plugins=base.plugins, default_plugins=base.default_plugins, id=base.id, timing=base.timing,
        **_payload(config["payload"]), **_parts(config),
    )  # fmt: skip


def from_vm_config(config: VmConfig, catalog: Catalog, fds: dict[str, list[int]] | None = None) -> Json:
    """The JSON of a configuration that came from flags or a file. Raises UserError.

    The JSON has no numbers of descriptors: they are noted in `fds` by device id, so that the devices have ids then.
    """
    found = _show_parts(config)
    given: list[tuple[Json, list[int]]] = []
    for device in config.devices:
        if device.type == PLUGIN:
            continue  # stays in the configuration that `to_vm_config` is given
        assert isinstance(device.type, str)
        _add(found, device, catalog, given)
    for section in sections.SECTIONS:
        if section.shape == "switch":
            found.setdefault(section.field, False)
    if given and fds is not None:
        name_devices(found, catalog)
        fds |= {item["id"]: numbers for item, numbers in given}
    return found


def _firmware(firmware: Firmware) -> Any:
    values = {key: value for key, value in firmware.to_dict().items() if value is not None}
    return values["path"] if values.keys() == {"path"} else values


def _add(config: Json, device: DeviceConfig, catalog: Catalog, fds: list[tuple[Json, list[int]]]) -> None:
    assert isinstance(device.type, str)
    kind = catalog.kind(device.type, device.origin)
    section = sections.section_of(kind)
    given = device.options or {}
    if isinstance(given, str):
        values = flag_values(given, kind, device.origin)
    else:
        values = _values(dict(given), kind, device.origin)
    if device.id is not None:
        values["id"] = device.id
    if section.shape == "switch":
        config[section.field] = bool(values.get("enabled", True))
        return
    form = catalog.form(kind)
    item = form.show(values)
    if Descriptors.field in form.parts and values.get("fd"):
        fds.append((item, list(values["fd"])))
    if section.shape == "one":
        config[section.field] = item
    else:
        config.setdefault(section.field, []).append(item)


def flag_values(text: str, kind: DeviceType, origin: str) -> Json:
    """The values of all options of a device, from what its flag is given. Raises UserError."""
    common = PciOptions if kind.bus == "pci" else DeviceOptions
    declared = kind.options or sections.NONE
    more = tuple(key for key in common._options if key not in declared._options)
    return _values(declared.pairs(text, origin, more), kind, origin)
