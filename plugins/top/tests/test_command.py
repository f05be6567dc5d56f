# SPDX-License-Identifier: Apache-2.0
"""`vmm top` beside an API that is made up: what it asks, prints, and says when there is nothing to ask."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from vmm_testkit.baremetal import BareMetal

from vmm_top import cli

VMM = str(Path(sys.executable).parent / "vmm")


class Api(socketserver.ThreadingUnixStreamServer):
    """Answers as the REST API does; each look at the counters is 500 requests and 2 KiB later."""

    looks = 0
    status = 200
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Api

    def do_GET(self) -> None:
        body: object = {"state": "Running", "config": {}}
        if self.path == "/api/v1/vm.counters":
            self.server.looks += 1
            n = self.server.looks
            body = {"vcpu0": {"pio": 0, "mmio": n, "cpu_ns": 1000 * n},
                    "disk0": {"read_bytes": n << 11, "queue0_requests": 500 * n}}
        elif self.path != "/api/v1/vm.info":
            self.send_error(404)
            return
        data = json.dumps(body if self.server.status == 200 else ["the VM is not created"]).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "client"

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(str(tmp_path / "api.sock"), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def top(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([VMM, "top", *args], capture_output=True, text=True, timeout=60, check=False)


def test_once_as_json(api: Api) -> None:
    done = top("--api-socket", str(api.server_address), "--once", "--json", "--interval", "0.1")
    assert done.returncode == 0, done.stderr
    view, = map(json.loads, done.stdout.splitlines())
    assert view["state"] == "Running"
    queue, = view["queues"]
    assert queue["requests"] * view["seconds"] == pytest.approx(500)
    assert view["devices"][0]["rates"]["read_bytes"] * view["seconds"] == pytest.approx(2048)
    assert view["vcpus"][0]["exits"] == {"pio": 0.0, "mmio": pytest.approx(1 / view["seconds"])}
    assert api.looks == 2, "one look before, one after"


def test_once_as_a_table(api: Api) -> None:
    done = top("--api-socket", f"path={api.server_address}", "--once", "--interval", "0.1")
    assert done.returncode == 0, done.stderr
    assert "Running" in done.stdout
    assert "disk0 0" in done.stdout
    assert "\x1b" not in done.stdout, "no terminal, no control sequences"


def test_on_a_terminal_until_it_is_interrupted(api: Api) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([VMM, "top", "--api-socket", str(api.server_address), "--interval", "0.1"],
                               stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    text = b""
    while text.count(b"disk0 0") < 3:
        assert select.select([ours], [], [], 60)[0], text
        text += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    os.close(ours)


def test_nobody_listens(tmp_path: Path) -> None:
    done = top("--api-socket", str(tmp_path / "none"), "--once")
    assert done.returncode == 2
    assert done.stderr == (f"vmm: error: --api-socket: {tmp_path}/none: No such file or directory; "
                           "name the socket of a running `vmm run --api-socket`\n")


def test_an_api_without_a_vm(api: Api) -> None:
    api.status = 404
    done = top("--api-socket", str(api.server_address), "--once")
    assert done.returncode == 1
    assert done.stderr == "vmm: error: the VM is not created (404)\n"


def test_an_api_that_ends(api: Api) -> None:
    process = subprocess.Popen([VMM, "top", "--api-socket", str(api.server_address), "--json", "--interval", "0.1"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    api.status = 500
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.count("\n") == 1


GUEST = r"""
#include "virtio.h"
static u8 ring[3 * 4096] __attribute__((aligned(4096)));
static u8 entropy[64];

int main(struct hvm_start_info *si) {
  (void)si;
  struct virtio dev;
  struct virtq q;
  CHECK(virtio_find(&dev, 4), "no device, %d", 4);
  CHECK(virtio_negotiate(&dev, 0), "features refused, offered %lx", virtio_offered(&dev));
  CHECK(virtq_setup(&dev, &q, 0, 64, ring), "no queue, %d", 0);
  virtio_driver_ok(&dev);
  for (;;) {
    struct virtq_piece pieces[] = {{entropy, sizeof entropy, 1}};
    virtq_request(&q, pieces, 1);
  }
}
"""


@pytest.mark.needs_kvm
def test_a_guest_that_works(tmp_path: Path) -> None:
    """A whole machine: a guest that asks for entropy all the time, and its API."""
    kernel, path = str(BareMetal(GUEST).build()), tmp_path / "api.sock"
    vm = subprocess.Popen([VMM, "run", "--kernel", kernel, "--memory", "32M", "--serial", "null", "--rng",
                           "--api-socket", str(path)], stdin=subprocess.DEVNULL)
    try:
        view: dict[str, Any] = {}
        while not any(row["requests"] for row in view.get("queues", ())):
            assert vm.poll() is None
            done = top("--api-socket", str(path), "--once", "--json", "--interval", "0.2")
            view = json.loads(done.stdout or "{}")  # nothing until the API is there, and its VM
        queue, = view["queues"]
        assert queue["device"] == "rng0"
        assert queue["in_bytes"] == pytest.approx(64 * queue["requests"])
        assert queue["out_bytes"] == 0
        assert {row["device"]: row["rates"] for row in view["devices"]}["rng0"]["bytes"] > 0
        vcpu, = view["vcpus"]
        assert vcpu["cpu"] > 0
        assert vcpu["kvm"].get("exits", 1) > 0
    finally:
        vm.terminate()
        vm.wait(60)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_comes_in_a_destructor() -> None:
    class Dropped:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    class Vm:
        looks = 0

        def call(self, method: str, name: str) -> dict[str, Any]:
            self.looks += 1
            if self.looks == 5:
                Dropped()  # Python cannot raise an exception there
            return {}

    before = signal.getsignal(signal.SIGINT)
    try:
        assert len(list(cli._views(Vm(), 0.05, False))) == 2  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
