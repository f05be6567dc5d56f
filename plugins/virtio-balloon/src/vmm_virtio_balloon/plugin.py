# SPDX-License-Identifier: Apache-2.0
"""The front's half of the balloon: its options, and what the plan says about it."""

from __future__ import annotations

from vmmcore.errors import UserError
from vmmcore.front.options import Option, Size
from vmmcore.front.virtio import VirtioOptions
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.planning import PlanContext

API = (1, 0)


class BalloonOptions(VirtioOptions):
    """``--balloon``, ``--balloon 256M`` or ``--balloon size=256M,deflate_on_oom=on,free_page_reporting=on``."""

    positional = "size"
    size = Option(Size, 0, "bytes that the guest shall give up")
    deflate_on_oom = Option(bool, False, "the guest may take pages back rather than kill programs")
    free_page_reporting = Option(bool, False, "the guest tells which pages it does not use; the host gets them")


def plan(context: PlanContext, options: BalloonOptions, device: dict[str, Any]) -> None:
    """Raises UserError for a balloon larger than the memory."""
    memory = sum(size for _, size in context.layout.ram)
    if options.size > memory:
        raise UserError("--balloon size=", f"{options.size} bytes are more than the guest's {memory}", "ask for less")


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("balloon", "vmm_virtio_balloon.device:Balloon", options=BalloonOptions, plan=plan, many=False,
                       doc="memory balloon (virtio-balloon)")]
