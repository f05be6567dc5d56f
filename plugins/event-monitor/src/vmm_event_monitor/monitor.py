# SPDX-License-Identifier: Apache-2.0
"""Events from the hook to the stream."""

from __future__ import annotations

import json
import threading

from vmmcore.front.events import Renderer
from vmmcore.hooks import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .stream import Stream


class Monitor:
    """Writes the events of one VM, or of all (`vm_id` None), until :meth:`close`. Any thread.

    An event is a JSON object of several lines and an empty line, as Cloud Hypervisor writes it.
    """

    def __init__(self, stream: Stream, vm_id: str | None) -> None:
        self._stream, self._vm_id = stream, vm_id
        self._renderer = Renderer()
        self._lock = threading.Lock()
        self._vms: set[str] = set()  # those that have not been deleted
        self._write(self._renderer.message("vmm", "starting"))

    @hookimpl
    def vmm_vm_event(self, vm_id: str, event: str, data: dict[str, Any]) -> None:
        """The hook."""
        if self._vm_id not in (None, vm_id):
            return
        with self._lock:
            (self._vms.discard if event == "deleted" else self._vms.add)(vm_id)
            self._write(*self._renderer.render(event, data, vm_id))

    def _write(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self._stream.write(json.dumps(message, indent=2) + "\n\n")

    def close(self) -> None:
        """The VM, or the front, has ended."""
        with self._lock:
            for _ in self._vms:
                self._write(self._renderer.message("vm", "deleted"))
            self._vms.clear()
            self._write(self._renderer.message("vmm", "shutdown"))
            self._stream.close()
