# SPDX-License-Identifier: Apache-2.0
"""The x86-64 architecture: declarations only; the work is in `layout`, `front` and `machine`."""

from __future__ import annotations

from vmmcore.hooks import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.front.planning import Layout, PlanContext

API = (1, 0)


class X86:
    """The planner's view of the architecture (:class:`vmmcore.hooks.Arch`)."""

    __slots__ = ()

    name = "x86_64"
    machine_module = "vmm_arch_x86_64.machine"

    def layout(self, config: Any) -> Layout:
        from . import layout

        return layout.layout(config)

    def finish(self, context: PlanContext, entry: dict[str, Any] | None) -> None:
        from . import front

        front.finish(context, entry)


@hookimpl
def vmm_arch(machine: str) -> X86 | None:
    return X86() if machine == "x86_64" else None
