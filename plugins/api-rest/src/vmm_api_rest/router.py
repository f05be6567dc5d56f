# SPDX-License-Identifier: Apache-2.0
"""From requests to calls and back: paths, methods, bodies checked with the schemas that are served, errors."""

from __future__ import annotations

import json
import sys
import threading
from http import HTTPStatus

from vmmcore.errors import UserError, VmmError
from vmmcore.front import metrics

from . import openapi, schema
from .calls import MACHINE, ROOT, by_path, table
from .errors import ApiError, status_of
from .server import Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .calls import Call
    from .catalog import Catalog
    from .host import Host
    from .server import Request
    from .streams import Events


class Router:
    """Answers requests; `leave` is called after the answer to ``vmm.shutdown``."""

    def __init__(self, host: Host, catalog: Catalog, events: Events, leave: Callable[[], None]) -> None:
        self._host, self._catalog, self._events, self._leave = host, catalog, events, leave
        self._lock = threading.Lock()
        self._schemas: dict[str, schema.Schema] = {}
        self._calls: dict[str, Call] = {}
        self._document = b""

    def _prepare(self) -> dict[str, Call]:
        """The calls. They are listed when the first of those comes that need the plugins of device types."""
        with self._lock:
            if not self._calls:
                self._schemas = openapi.schemas(self._catalog)
                self._calls = by_path(table(self._catalog))
            return self._calls

    def answer(self, request: Request) -> Response:
        """The answer to a request. Never raises."""
        try:
            return self._answer(request)
        except VmmError as error:
            explained = self._host.explain(error)
            return self._failed(status_of(explained), str(explained))
        except Exception as error:
            print(f"vmm: API: internal error: {type(error).__name__}: {error}", file=sys.stderr)
            return self._failed(HTTPStatus.INTERNAL_SERVER_ERROR, f"internal error: {type(error).__name__}: {error}")

    def _failed(self, status: int, message: str) -> Response:
        return Response(status, refusal(message))

    def _answer(self, request: Request) -> Response:
        if request.path in (openapi.EVENTS, openapi.METRICS, openapi.DOCUMENT):
            _check_method(request, "GET")
            return self._other(request.path)
        call = _LOOKS.get(request.path) or self._prepare().get(request.path)
        if call is None:
            raise ApiError(HTTPStatus.NOT_FOUND, f"there is no {request.path[:100]}; see {ROOT}/openapi.json")
        _check_method(request, call.method)
        result = call.do(self._host, self._body(call, request), request.fds)
        after = self._leave if call.name == "vmm.shutdown" else None
        if result is None:
            return Response(HTTPStatus.NO_CONTENT, after=after)
        return Response(HTTPStatus.OK, json.dumps(result).encode())

    def _body(self, call: Call, request: Request) -> dict[str, Any]:
        """The request's body, checked. Raises ApiError, UserError (400)."""
        if call.body is None:
            if request.body and call.method != "GET":
                raise ApiError(HTTPStatus.BAD_REQUEST, f"{call.name} takes no body")
            return {}
        try:
            value = json.loads(request.body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise ApiError(HTTPStatus.BAD_REQUEST, f"the body is no JSON: {' '.join(str(error).split())}") from None
        try:
            schema.check(value, schema.ref(call.body), "", self._schemas)
        except UserError as error:
            if error.option:
                raise
            raise UserError("the request", error.problem, error.mend) from None
        except RecursionError:
            raise ApiError(HTTPStatus.BAD_REQUEST, "the body is nested too deeply") from None
        assert isinstance(value, dict)
        return value

    def _other(self, path: str) -> Response:
        if path == openapi.EVENTS:
            stream = self._events.listen()
            if stream is None:
                raise ApiError(HTTPStatus.TOO_MANY_REQUESTS, "too many listen to events already")
            return Response(HTTPStatus.OK, kind="text/event-stream", stream=stream)
        if path == openapi.METRICS:
            vm = self._host.vm
            text = metrics.exposition([] if vm is None else [(vm.info(), vm.counters())])
            return Response(HTTPStatus.OK, text.encode(), metrics.CONTENT_TYPE)
        self._prepare()
        with self._lock:
            if not self._document:
                self._document = json.dumps(openapi.document(self._catalog)).encode()
            return Response(HTTPStatus.OK, self._document)


def _check_method(request: Request, method: str) -> None:
    """400 for another method, as there."""
    if request.method != method:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"{request.path} is for {method}")


def refusal(message: str) -> bytes:
    """The body of an error: Cloud Hypervisor's, a list of messages."""
    return json.dumps([" ".join(message.split())]).encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


#: calls that must not wait until the plugins of all device types are loaded
_LOOKS = by_path(call for call in MACHINE if call.body is None)
