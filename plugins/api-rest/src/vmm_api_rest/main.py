# SPDX-License-Identifier: Apache-2.0
"""``vmm run --api-socket``: the process that serves the API, from the listening socket to the exit status."""

from __future__ import annotations

import os
import queue
import signal
import socket
import stat

from vmmcore import sockets
from vmmcore.errors import UserError
from vmmcore.front import unixsocket
from vmmcore.front.options import Option, Options, Path

from .catalog import Catalog
from .host import Host
from .router import Router, refusal
from .server import Server
from .streams import Events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vmmcore.front.config import VmConfig
    from vmmcore.front.plugins import Plugins

FLAG = "--api-socket"
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class SocketOptions(Options):
    """``--api-socket PATH`` or ``--api-socket fd=N``."""

    positional = "path"
    path: Option[str | None] = Option(Path, None, "a new Unix socket, for this user alone")
    fd: Option[int | None] = Option(int, None, "a Unix socket that listens already", min=3)

    def validate(self, option: str) -> None:
        if (self.path is None) == (self.fd is None):
            raise UserError(option, "it is not said where", "give a path, or fd=")


def run(where: str, config: VmConfig, plugins: Plugins) -> int:
    """See :func:`vmm_api_rest.plugin.serve`."""
    fd, node = _listen(SocketOptions.parse(where, FLAG))
    ends: queue.SimpleQueue[int] = queue.SimpleQueue()
    try:
        events = Events(config.id)
        catalog = Catalog(plugins.named, plugins.default_plugins)
        host = Host(config, plugins, catalog, tell=events.tell, ended=ends.put)
        router = Router(host, catalog, events, lambda: ends.put(0))
        server = Server(fd, router.answer, refusal)
        fd = -1
        machine = config.kernel is not None or config.firmware is not None
        if machine:
            host.adopt(config)
        server.start()
        before = _handle_signals(ends, host)
        try:
            if machine:
                host.boot()
            return ends.get()
        finally:
            host.close()
            events.close()
            server.close()
            for number, handler in before.items():
                signal.signal(number, handler)
    finally:
        if fd >= 0:
            os.close(fd)
        if node is not None:
            sockets.remove([node])


def _handle_signals(ends: queue.SimpleQueue[int], host: Host) -> dict[signal.Signals, Any]:
    """End on the usual signals; SIGUSR1 is the VM's. The handlers that were there before."""

    def end(number: int, _: object) -> None:
        ends.put(128 + number)

    def forward(number: int, _: object) -> None:
        host.signal(number)

    before = {number: signal.signal(number, end) for number in ENDING}
    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, forward)
    return before


def _listen(options: SocketOptions) -> tuple[int, list[Any] | None]:
    """The listening socket, and what to remove at the end. Raises UserError."""
    if options.path is not None:
        return unixsocket.listen(options.path, FLAG, private=True, backlog=64)
    assert options.fd is not None
    try:
        found = os.fstat(options.fd)
        if not stat.S_ISSOCK(found.st_mode):
            raise OSError
        with socket.socket(fileno=os.dup(options.fd)) as probe:
            listens = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if probe.family != socket.AF_UNIX or not listens:
                raise OSError
    except OSError:
        raise UserError(f"{FLAG} fd=", f"{options.fd} is no Unix socket that listens", "pass one") from None
    os.set_inheritable(options.fd, False)
    return options.fd, None


