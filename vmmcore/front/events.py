# SPDX-License-Identifier: Apache-2.0
"""Events as Cloud Hypervisor writes them, made from ours (``docs/hooks.md``): for event streams of any kind.

One is ``{"timestamp": {"secs", "nanos"}, "source", "event", "properties"}``. The time counts from the making of the
:class:`Renderer`; properties are text, or None. What Cloud Hypervisor has no name for keeps ours, from the source "vm".
"""

from __future__ import annotations

import json
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: ours -> names of theirs, in the order in which they are told. Theirs say that something begins, ours only that it
#: is done: so the two come together
_NAMES: dict[str, tuple[str, ...]] = {
    "created": (),
    "booted": ("booting", "booted"),
    "paused": ("pausing", "paused"),
    "resumed": ("resuming", "resumed"),
    "rebooted": ("rebooting",),
    "cpus-resized": ("resizing", "resized"),
    "memory-resized": ("resizing", "resized"),
    "exited": ("shutdown",),
    "ending": ("ending",),
}
#: keys of our data -> theirs
_KEYS = {"device": "id"}


class Renderer:
    """Makes events for one stream; it knows which VM is between two boots."""

    def __init__(self) -> None:
        self._start = time.monotonic_ns()
        self._rebooting: set[str] = set()

    def render(self, event: str, data: dict[str, Any], vm_id: str = "") -> list[dict[str, Any]]:
        """What one of our events is to others: none, one or two events."""
        names = _NAMES.get(event, (event,))
        if event == "rebooted":
            self._rebooting.add(vm_id)
        elif event == "booted" and vm_id in self._rebooting:
            names = ("rebooted",)
            self._rebooting.discard(vm_id)
        elif event == "exited":
            self._rebooting.discard(vm_id)
        properties = {_KEYS.get(key, key): _text(value) for key, value in data.items()}
        messages = [self.message("vm", name, properties if name == names[-1] else None) for name in names]
        if event == "ending" and data.get("reason") == "panic":
            messages.insert(0, self.message("guest", "panic", {"event": "panic"}))
        return messages

    def message(self, source: str, event: str, properties: dict[str, str] | None = None) -> dict[str, Any]:
        """An event of now."""
        secs, nanos = divmod(time.monotonic_ns() - self._start, 1_000_000_000)
        return {
            "timestamp": {"secs": secs, "nanos": nanos},
            "source": source,
            "event": event,
            "properties": properties or None,
        }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def sse(message: dict[str, Any], number: int) -> bytes:
    """An event of :meth:`Renderer.render` as a server-sent one (HTML Living Standard §9.2.5); `number` is its id."""
    name = f"{message['source']}.{message['event']}"
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(message)}\n\n".encode()
