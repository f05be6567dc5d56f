# SPDX-License-Identifier: Apache-2.0
"""Planning one device by itself, as the front does it: no other plugins, no machine, no KVM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from vmmcore import plan as planfile
from vmmcore.front.config import VmConfig
from vmmcore.front.planning import Layout, PlanContext

if TYPE_CHECKING:
    from vmmcore.hooks import DeviceType


@contextmanager
def plan_context(*, gsis: Sequence[int] = (), dry_run: bool = False, **extra: Any) -> Iterator[PlanContext]:
    """A context for plans of devices; the files that they open are closed at its end.

    ``gsis``: interrupts that are free; ``extra``: what the architecture tells plugins, such as
    ``phandles={"gic": 1, "its": 2, "clock": 3}`` on AArch64.
    """
    document: dict[str, Any] = {"files": [], "devices": [], "load": []}
    unused: Any = SimpleNamespace(hooks=None)
    layout = Layout(ram=[(1 << 30, 1 << 20)], gsis=list(gsis), extra=extra)
    context = PlanContext(
        VmConfig(kernel="/dev/null"), layout, document, unused, unused, [], dry_run=dry_run, tell=lambda line: None
    )
    try:
        yield context
    finally:
        planfile.close_all(context.fds)


def plan_device(context: PlanContext, kind: DeviceType, text: str) -> dict[str, Any] | None:
    """What ``--KEY TEXT`` plans, or None where it asks for no device. Raises UserError, VmmError."""
    assert kind.options is not None and kind.plan is not None
    option = f"--{kind.key}"
    device: dict[str, Any] = {"id": f"{kind.key}0", "type": kind.key, "options": {}, "resources": {}, "files": {}}
    if kind.plan(context, kind.options.parse(text, option), device) is False:
        return None
    context.plan["devices"].append(device)
    return device
