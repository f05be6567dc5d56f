# SPDX-License-Identifier: Apache-2.0
"""The AArch64 architecture: declarations only; the work is in `layout`, `front`, `tree` and `machine`."""

from __future__ import annotations

from vmmcore.hooks import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.front.planning import Layout, PlanContext

API = (1, 0)


class AArch64:
    """The planner's view of the architecture (:class:`vmmcore.hooks.Arch`)."""

    __slots__ = ()

    name = "aarch64"
    machine_module = "vmm_arch_aarch64.machine"
    devices = ("rtc", "gpio")
    firmware_devices = ("fw-cfg",)

    def layout(self, config: Any) -> Layout:
        from . import layout

        return layout.layout(config)

    def finish(self, context: PlanContext, entry: dict[str, Any] | None) -> None:
        from . import front

        front.finish(context, entry)


@hookimpl
def vmm_arch(machine: str) -> AArch64 | None:
    return AArch64() if machine == "aarch64" else None
