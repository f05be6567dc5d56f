# SPDX-License-Identifier: Apache-2.0
"""The front's half: what the device is called and which options it takes."""

from __future__ import annotations

from vmmcore.front.options import Option
from vmmcore.front.virtio import VirtioOptions
from vmmcore.hooks import DeviceType, hookimpl

API = (1, 0)  # the plugin API this was written for


class EchoOptions(VirtioOptions):
    """``--plugin virtio-echo``, ``--plugin virtio-echo,native=off,packed=on``."""

    native = Option(bool, True, "serve the queue in C, beside the main thread; off: in Python")


@hookimpl
def vmm_device_types() -> list[DeviceType]:
    return [DeviceType("virtio_echo", "vmm_virtio_echo.device:Echo", options=EchoOptions, doc="gives back what it gets")]
