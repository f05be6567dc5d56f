# SPDX-License-Identifier: Apache-2.0
"""Asking the API of a running ``vmm`` (plugin api-rest) over its Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import time

from vmmcore.errors import GuestError, UserError

from .rates import Sample

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: seconds for an answer: the API answers these at once, whatever else it does
TIMEOUT = 10.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """The API that listens at `path`. One connection, made when it is needed; close() it."""

    def __init__(self, path: str) -> None:
        self._path, self._connection = path, _Connection(path)

    def sample(self) -> Sample:
        """State and counters of now. Raises UserError (nobody listens there) or GuestError (it refuses)."""
        info = self._get("vm.info")
        return Sample(time.monotonic(), str(info.get("state", "")), self._get("vm.counters"))

    def _get(self, name: str) -> dict[str, Any]:
        try:
            self._connection.request("GET", f"/api/v1/{name}")
            response = self._connection.getresponse()
            body = response.read()
            found = json.loads(body) if response.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UserError("--api-socket", f"{self._path}: {reason}",
                            "name the socket of a `vmm run --api-socket` that runs") from None
        if not isinstance(found, dict):
            raise GuestError(f"{name}: {response.status} {response.reason}: {_said(body)}".rstrip(": "))
        return found

    def close(self) -> None:
        self._connection.close()


def _said(body: bytes) -> str:
    """An error's text, in one line: a JSON list of texts, or plain text."""
    text = body.decode(errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    return " ".join((": ".join(map(str, found)) if isinstance(found, list) else str(found)).split())
