# SPDX-License-Identifier: Apache-2.0
"""The command ``vmm top``. What it needs beyond click is imported when it runs."""

from __future__ import annotations

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from vmm_api_rest.client import Client


@click.command(short_help="Watch a VM's vCPUs, queues and devices.",
               context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--api-socket", required=True, metavar="PATH", help="The API socket of the VM's `vmm run`.")
@click.option("--interval", type=click.FloatRange(min=0.05), default=1.0, show_default=True, metavar="S",
              help="Seconds from one look to the next.")
@click.option("--once", is_flag=True, help="Show one interval and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each interval.")
def top(api_socket: str, interval: float, once: bool, as_json: bool) -> None:
    """Show what a running VM does in each second: CPU time and exits of its vCPUs, requests and bytes of its
    virtqueues, and what its devices count. Ctrl-C ends it."""
    from vmm_api_rest.client import Client

    api_socket = api_socket.removeprefix("path=")
    views = _views(Client(api_socket, timeout=10.0), interval, once)
    try:
        if as_json:
            _print_json(views)
        else:
            _show(api_socket, views)
    except KeyboardInterrupt:
        pass


def _views(client: Client, interval: float, once: bool) -> Iterator[dict[str, Any]]:
    """Look, and look again, until Ctrl-C. Raises KeyboardInterrupt then, UserError (nobody listens there), VmmError
    (there is no VM, or none any more)."""
    import signal
    import time

    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True  # an exception is lost where Python cannot raise one: in a destructor
        raise KeyboardInterrupt

    from .rates import Sample, between

    def look() -> Sample:
        state = str(client.call("GET", "vm.info").get("state", ""))
        return Sample(time.monotonic(), state, client.call("GET", "vm.counters"))

    signal.signal(signal.SIGINT, interrupt)
    before = look()
    while not interrupted:
        time.sleep(max(0.0, before.time + interval - time.monotonic()))
        after = look()
        yield between(before, after)
        if once:
            return
        before = after


def _print_json(views: Iterator[dict[str, Any]]) -> None:
    import json

    for view in views:
        click.echo(json.dumps(view))


def _show(name: str, views: Iterator[dict[str, Any]]) -> None:
    """On a terminal each view takes the place of the last; elsewhere it follows it."""
    from rich.console import Console
    from rich.live import Live

    from .screen import tables

    console = Console(highlight=False)
    if not console.is_terminal:
        for view in views:
            console.print(tables(name, view))
        return
    with Live(console=console, auto_refresh=False) as live:
        for view in views:
            live.update(tables(name, view), refresh=True)
