# SPDX-License-Identifier: Apache-2.0
"""Which device type is which part of Cloud Hypervisor's VmConfig, and what is special about its JSON.

Fields that are not named here are options of the device's plugin, of the same name. A device type that is not here
(a third party's) is a list under its own key, and its JSON is that of its options.
"""

from __future__ import annotations

from vmmcore.front.devices import DeviceOptions, PciOptions
from vmmcore.front.options import Options

from .forms import BOOL, COUNT, TEXT, Descriptors, Form, RateLimiter, StreamMode
from .schema import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    from vmmcore.hooks import DeviceType

    from .schema import Schema

    Shape = Literal["list", "one", "switch"]
    Extras = dict[str, tuple[Schema, Sequence[Any]]]

_AFFINITY = array({"type": "object", "additionalProperties": False, "required": ["queue_index", "host_cpus"],
                   "properties": {"queue_index": COUNT, "host_cpus": array(COUNT)}})  # fmt: skip
_IOMMU: Extras = {"iommu": (BOOL, (False,))}
_VHOST_USER: Extras = {"vhost_user": (BOOL, (False,)), "vhost_socket": (TEXT, ())}


class Section:
    """One part of VmConfig.

    field   its key in VmConfig
    type    the device type's key
    shape   a list of devices, one object, or a switch
    schema  the name of one's schema in the document
    call    the request that adds one, if there is one: ``add-disk``
    """

    def __init__(self, field: str, type: str, shape: Shape, schema: str = "", *, call: str = "",
                 words: dict[str, tuple[str, ...]] | None = None, extras: Extras | None = None) -> None:  # fmt: skip
        self.field, self.type, self.shape, self.call = field, type, shape, call
        self.schema = schema or "".join(part.capitalize() for part in type.replace("-", "_").split("_")) + "Device"
        self.words, self.extras = words or {}, extras or {}


#: in the order in which guests find the devices
SECTIONS: tuple[Section, ...] = (
    Section("serial", "serial", "one", "SerialConfig"),
    Section("debug_console", "debugcon", "one", "DebugConsoleConfig"),
    Section("console", "console", "one", "ConsoleConfig", extras=_IOMMU),
    Section("disks", "disk", "list", "DiskConfig", call="add-disk", words={"image_type": ("Unknown",)},
            extras={**_IOMMU, **_VHOST_USER, "rate_limit_group": (TEXT, ()), "queue_affinity": (_AFFINITY, ([],)),
                    "backing_files": (BOOL, (False,)),
                    "lock_granularity": ({"type": "string", "enum": ["ByteRange", "Full"]}, ("ByteRange", "Full"))}),
    Section("net", "net", "list", "NetConfig", call="add-net",
            extras={**_IOMMU, **_VHOST_USER,
                    "vhost_mode": ({"type": "string", "enum": ["Client", "Server"]}, ("Client",))}),
    Section("rng", "rng", "one", "RngConfig", extras=_IOMMU),
    Section("fs", "fs", "list", "FsConfig", call="add-fs"),
    Section("generic_vhost_user", "generic-vhost-user", "list", "GenericVhostUserConfig",
            call="add-generic-vhost-user"),
    Section("pmem", "pmem", "list", "PmemConfig", call="add-pmem", extras=_IOMMU),
    Section("vsock", "vsock", "one", "VsockConfig", call="add-vsock", extras=_IOMMU),
    Section("vdpa", "vdpa", "list", "VdpaConfig", call="add-vdpa", extras=_IOMMU),
    Section("balloon", "balloon", "one", "BalloonConfig", extras=_IOMMU),
    Section("watchdog", "watchdog", "switch"),
    Section("pvpanic", "pvpanic", "switch"),
    Section("rtc", "rtc", "one", "RtcConfig", extras=_IOMMU),
    Section("tpm", "tpm", "one", "TpmConfig"),
    Section("devices", "device", "list", "DeviceConfig", call="add-device", extras=_IOMMU),
    Section("user_devices", "user-device", "list", "UserDeviceConfig", call="add-user-device"),
)  # fmt: skip
BY_FIELD = {section.field: section for section in SECTIONS}
BY_TYPE = {section.type: section for section in SECTIONS}
#: what a field of a part that no plugin serves yet must at least hold, for the document
REQUIRED = {"vsock": ("cid", "socket"), "fs": ("tag", "socket"), "pmem": ("file",), "vdpa": ("path",),
            "user-device": ("socket",), "tpm": ("socket",), "generic-vhost-user": ("socket",)}  # fmt: skip


class NONE(Options):
    """The options of a device type that has none."""


def section_of(kind: DeviceType) -> Section:
    """The part of VmConfig that devices of this type are in."""
    return BY_TYPE.get(kind.key) or Section(kind.key, kind.key, "list")


def form_of(kind: DeviceType) -> Form:
    """The JSON form of one device of this type."""
    section = section_of(kind)
    own = kind.options or NONE
    common = PciOptions if kind.bus == "pci" else DeviceOptions
    stream = "mode" in own._options and "file" in own._options and kind.key in BY_TYPE
    parts = [RateLimiter(), *([Descriptors()] if kind.key == "net" else []), *([StreamMode(own)] if stream else [])]
    extras = {key: extra for key, extra in section.extras.items() if kind.bus == "pci" or key != "iommu"}
    return Form(section.schema, own, common, rename={"pci_device_id": "slot"}, words=section.words,
                parts=parts, extras=extras, hidden=("enabled",) if section.shape == "switch" else ())  # fmt: skip
