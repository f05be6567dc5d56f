# SPDX-License-Identifier: Apache-2.0
"""``--event-monitor``: where to write."""

from __future__ import annotations

from vmmcore.errors import UserError
from vmmcore.front.options import Option, Options, Path
from vmmcore.hooks import DeviceType, hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from vmmcore.front.context import FrontContext

API = (1, 0)


class EventMonitorOptions(Options):
    """``--event-monitor path=FILE`` or ``--event-monitor fd=N``."""

    path: Option[str | None] = Option(Path, None, "a file, made or emptied, a FIFO or a terminal")
    fd: Option[int | None] = Option(int, None, "an open descriptor; it stays as it is", min=1)

    def validate(self, option: str) -> None:
        if (self.path is None) == (self.fd is None):
            what = "says not where to" if self.path is None else "says two places where to"
            raise UserError(option, f"{what} write", "give path=FILE or fd=N")


def plan(context: FrontContext, options: EventMonitorOptions, device: dict[str, Any]) -> None:
    if context.dry_run:
        return
    from .monitor import Monitor
    from .stream import Stream

    context.observe(Monitor(Stream(options.path, options.fd), context.vm_id))


@hookimpl
def vmm_device_types() -> Sequence[DeviceType]:
    return [DeviceType("event-monitor", "", options=EventMonitorOptions, plan=plan, bus="front",
                       doc="write the VM's events, in Cloud Hypervisor's form")]
