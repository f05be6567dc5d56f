# SPDX-License-Identifier: Apache-2.0
"""The front's half of the watchdogs: their options."""

from __future__ import annotations

from vmmcore.errors import UserError
from vmmcore.front.options import Option
from vmmcore.front.virtio import VirtioOptions
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)

CLASSES = {"virtio": "VirtioWatchdog", "i6300esb": "I6300esb"}


class WatchdogOptions(VirtioOptions):
    """``--watchdog``, ``--watchdog off`` or ``--watchdog model=i6300esb``."""

    positional = "enabled"
    enabled = Option(bool, True, "a watchdog resets a guest that hangs")
    model = Option(str, "virtio", "Cloud Hypervisor's, or one that stock kernels know", choices=("virtio", "i6300esb"))
    timeout = Option(int, 20, "virtio: seconds without a ping until the reset", min=1, max=86400)

    def validate(self, option: str) -> None:
        if self.model != "virtio" and (self.packed or self.iommu):
            raise UserError(f"{option} {'packed' if self.packed else 'iommu'}=", "only for model=virtio", "leave it out")


def plan(context: PlanContext, options: WatchdogOptions, device: dict[str, Any]) -> bool:
    device["class"] = CLASSES[options.model]
    return options.enabled


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("watchdog", "vmm_watchdog.device:VirtioWatchdog", options=WatchdogOptions, plan=plan, many=False,
                       doc="resets a guest that hangs")]
