# SPDX-License-Identifier: Apache-2.0
"""vmmcore: a virtual machine monitor that is put together from plugins.

::

    from vmmcore import Vm, VmConfig

    with Vm(VmConfig(kernel="vmlinuz", memory="size=1G")) as vm:
        vm.boot()
        vm.wait()

The names below are imported when they are first used: the runner takes only what it needs.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .device import Device, PciDevice
    from .errors import GuestError, HostError, KvmError, PluginError, UserError, VmmError
    from .front.config import Cpus, DeviceConfig, Memory, VmConfig
    from .front.options import Option, Options
    from .front.vm import Vm
    from .registers import Register, RegisterMap
    from .virtio import Chain, Queue, VirtioDevice

__all__ = [
    "Chain",
    "Cpus",
    "Device",
    "DeviceConfig",
    "GuestError",
    "HostError",
    "KvmError",
    "Memory",
    "Option",
    "Options",
    "PciDevice",
    "PluginError",
    "Queue",
    "Register",
    "RegisterMap",
    "UserError",
    "VirtioDevice",
    "Vm",
    "VmConfig",
    "VmmError",
    "get_include",
]

_HOMES = {
    "device": ("Device", "PciDevice"),
    "errors": ("GuestError", "HostError", "KvmError", "PluginError", "UserError", "VmmError"),
    "front.config": ("Cpus", "DeviceConfig", "Memory", "VmConfig"),
    "front.options": ("Option", "Options"),
    "front.vm": ("Vm",),
    "virtio": ("Chain", "Queue", "VirtioDevice"),
    "registers": ("Register", "RegisterMap"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            import sys

            __import__(f"{__name__}.{home}")
            value = getattr(sys.modules[f"{__name__}.{home}"], name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def get_include() -> str:
    """The folder of ``vmmcore.h``, for plugins with C code."""
    import os

    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")
