# SPDX-License-Identifier: Apache-2.0
"""Requests to a runner, its answers, its events and its end, for any number of threads.

No thread of our own: of the threads that wait for something, one reads the socket for all.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque

from .. import wire
from ..errors import GuestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .launch import Runner


def _refusal(message: str) -> GuestError:
    error = GuestError(message)
    error.refused = True
    return error


class Channel:
    """The front's end of a runner's control socket.

    `on_event` is called with (name, data) by whichever thread is waiting: one event at a time, in their order, and
    it may make requests. `on_state` is called at once and under our lock: before any thread gets an answer that
    the runner sent after the event.
    """

    def __init__(
        self,
        runner: Runner,
        on_event: Callable[[str, dict[str, Any]], None],
        on_state: Callable[[str, dict[str, Any]], None] = lambda name, data: None,
    ) -> None:
        self.runner = runner
        #: exit status of the runner once it ended
        self.status: int | None = None
        self.events: deque[tuple[str, dict[str, Any]]] = deque(maxlen=4096)
        self._on_event, self._on_state = on_event, on_state
        self._condition = threading.Condition()
        self._sending = threading.Lock()
        self._told: deque[tuple[str, dict[str, Any]]] = deque()  # events that on_event has yet to be called with
        self._telling = False
        self._reading = False
        self._hung_up = False
        self._next_id = 1
        self._waiting: set[int] = set()
        self._answers: dict[int, dict[str, Any]] = {}
        self._late: set[int] = set()  # requests that were given up, and whose answers are still due

    def request(
        self, op: str, fds: list[int] | tuple[int, ...] = (), timeout: float = 60.0, **fields: Any
    ) -> dict[str, Any]:
        """Ask the runner and wait for its answer. Raises GuestError: refused, gone, or no answer in time."""
        with self._condition:
            number = self._next_id
            self._next_id += 1
            self._waiting.add(number)
        try:
            try:
                with self._sending:
                    wire.send(self.runner.control, {"id": number, "op": op, **fields}, fds)
            except ValueError as error:  # more than fits into a message: of descriptors, for example
                raise _refusal(f"{op}: {error}") from None
            except OSError:  # the runner is gone or about to be; say how it ended
                self.until(lambda: self.status is not None, 10.0)
                raise self._gone(op) from None
            if not self.until(lambda: number in self._answers, timeout):
                if self.status is not None:
                    raise self._gone(op)
                with self._condition:
                    if number not in self._answers:
                        self._waiting.discard(number)
                        self._late.add(number)
                raise GuestError(
                    f"{op}: the runner (pid {self.runner.pid}) did not answer within {timeout:g} s"
                )
            answer = self._answers.pop(number)
        finally:
            with self._condition:
                self._waiting.discard(number)
                self._answers.pop(number, None)
        if "error" in answer:
            text = f"{op}: {' '.join(str(answer['error']).split())}"
            raise GuestError(text) if answer.get("bug") else _refusal(text)
        result = answer.get("ok")
        return result if isinstance(result, dict) else {}

    def keeps_up(self, timeout: float) -> bool:
        """Wait until the runner owes no answer to a request that was given up; False: it does, after `timeout` s."""
        return self.until(lambda: not self._late, timeout)

    def _gone(self, op: str) -> GuestError:
        how = "is gone" if self.status is None else f"ended with status {self.status}"
        return GuestError(f"{op}: the runner {how}")

    def until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until done() (False: the time is over, or the runner ended and it is still not)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        condition = self._condition
        with condition:
            while not done():
                if self.status is not None:
                    return False
                rest = None if deadline is None else deadline - time.monotonic()
                if rest is not None and rest <= 0:
                    return False
                if self._reading:
                    condition.wait(rest)
                    continue
                self._reading = True
                condition.release()
                messages: list[dict[str, Any]] = []
                status = None
                try:
                    messages, status = self._read(rest)
                finally:
                    condition.acquire()
                    self._reading = False
                    condition.notify_all()
                self._sort(messages, status)
                if not self._telling:
                    self._tell()
        return True

    def _tell(self) -> None:
        """Call on_event for what has come, with the lock given up meanwhile: so one thread does this at a time."""
        self._telling = True
        try:
            while self._told:
                name, data = self._told.popleft()
                self._condition.release()
                try:
                    self._on_event(name, data)
                finally:
                    self._condition.acquire()
        finally:
            self._telling = False

    def _sort(self, messages: list[dict[str, Any]], status: int | None) -> None:
        events: list[tuple[str, dict[str, Any]]] = []
        for message in messages:
            number = message.get("id")
            if isinstance(message.get("event"), str):
                events.append((message.pop("event"), message))
            elif number in self._waiting:
                assert isinstance(number, int)
                self._answers[number] = message
            elif isinstance(number, int):
                self._late.discard(number)
        if status is not None:
            self.status = status
            if not any(name == "exited" for name, _ in (*self.events, *events)):
                events.append(("exited", {"status": status}))
        for name, data in events:
            self._on_state(name, data)
        self.events.extend(events)
        self._told.extend(events)

    def _read(self, timeout: float | None) -> tuple[list[dict[str, Any]], int | None]:
        """Wait for something to arrive; the messages, and the exit status if the runner ended."""
        poll = select.poll()
        poll.register(self.runner.pidfd, select.POLLIN)
        if not self._hung_up:
            poll.register(self.runner.control.fileno(), select.POLLIN)
        ready = poll.poll(None if timeout is None else max(0, int(timeout * 1000) + 1))
        messages: list[dict[str, Any]] = []
        ended = any(fd == self.runner.pidfd for fd, _ in ready)
        while ready and not self._hung_up:
            try:
                received = wire.receive(self.runner.control, 0x40)  # MSG_DONTWAIT
            except BlockingIOError:
                break
            except (ValueError, OSError):  # it no longer keeps to the protocol: trust it with nothing more
                self.runner.kill()
                received = None
            if received is None:
                self._hung_up = True
                break
            message, fds = received
            for fd in fds:
                os.close(fd)
            messages.append(message)
        return messages, self.runner.poll() if ended else None

    def close(self) -> int:
        """Kill the runner if it still runs, reap it, close our ends; its exit status. Any thread, any number of times.

        Threads that wait are woken first, and none uses a descriptor when it is closed.
        """
        self.runner.kill()
        self.until(lambda: self.status is not None, None)
        with self._condition:
            self._condition.wait_for(lambda: not self._reading)
            with self._sending:
                self.runner.close()
            assert self.status is not None
            return self.status
