# SPDX-License-Identifier: Apache-2.0
"""``GET /api/v1/events``: everybody who listens gets every event; who does not keep up is dropped."""

from __future__ import annotations

import queue
import threading

from vmmcore.front.events import Renderer, sse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    Inbox = queue.Queue[bytes | None]

MAX_LISTENERS = 16
#: events that a listener may be behind
BACKLOG = 1024
#: seconds after which a silent stream says that it is alive, which is how a client that has gone is noticed
ALIVE = 5.0


class Events:
    """Hands events on. Any thread may tell; the stream of each listener runs in that listener's thread."""

    def __init__(self, vm_id: str) -> None:
        self._vm_id = vm_id
        self._renderer = Renderer()
        self._lock = threading.Lock()
        self._number = 0
        self._listeners: list[Inbox] = []
        self._closed = False

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """One of vmm's own events (docs/hooks.md)."""
        with self._lock:
            for message in self._renderer.render(event, data, self._vm_id):
                self._number += 1
                text = sse(message, self._number)
                for inbox in list(self._listeners):
                    self._put(inbox, text)

    def _put(self, inbox: Inbox, text: bytes | None) -> None:
        try:
            inbox.put_nowait(text)
        except queue.Full:
            self._listeners.remove(inbox)

    def listen(self) -> Stream | None:
        """A stream of server-sent events from now on, to be closed; None: too many listen already."""
        inbox: Inbox = queue.Queue(BACKLOG)
        with self._lock:
            if len(self._listeners) >= MAX_LISTENERS or self._closed:
                return None
            self._listeners.append(inbox)
        return Stream(self, inbox)

    def listens(self, inbox: Inbox) -> bool:
        """Whether events still come to it."""
        return inbox in self._listeners

    def forget(self, inbox: Inbox) -> None:
        with self._lock:
            if inbox in self._listeners:
                self._listeners.remove(inbox)

    def close(self) -> None:
        """The streams end when they have sent what there is."""
        with self._lock:
            self._closed = True
            for inbox in list(self._listeners):
                self._put(inbox, None)


class Stream:
    """What one listener gets. No generator: close() gives the listener's place free even if nothing was ever read."""

    def __init__(self, events: Events, inbox: Inbox) -> None:
        self._events, self._inbox = events, inbox
        self._begun = self._ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if not self._begun:
            self._begun = True
            return b": vmm\n\n"  # the headers go out with it
        text = None
        if not self._ended and (self._events.listens(self._inbox) or not self._inbox.empty()):
            try:
                text = self._inbox.get(timeout=ALIVE)
            except queue.Empty:
                text = b":\n\n"
        if text is None:
            self._ended = True
            self.close()
            raise StopIteration
        return text

    def close(self) -> None:
        """Listen no more."""
        self._events.forget(self._inbox)
