# SPDX-License-Identifier: Apache-2.0
"""The front's half of pvpanic: one switch, nothing to open."""

from __future__ import annotations

from vmmcore.front.options import Option, Options
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)


class PvpanicOptions(Options):
    """``--pvpanic``, ``--pvpanic on`` or ``--pvpanic off``."""

    positional = "enabled"
    enabled = Option(bool, True, "whether the device is there")


def plan(context: PlanContext, options: PvpanicOptions, device: dict[str, Any]) -> bool:
    device["options"] = {}
    return options.enabled


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("pvpanic", "vmm_pvpanic.device:Pvpanic", options=PvpanicOptions, plan=plan, many=False,
                       doc="the guest tells when its kernel panics")]
