# SPDX-License-Identifier: Apache-2.0
"""`vmm ctl`: every call from the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_served import MIB, VMM, Served

from vmm_api_rest.calls import table
from vmm_api_rest.catalog import Catalog
from vmm_api_rest.client import Client
from vmm_api_rest.ctl import command

pytestmark = pytest.mark.needs_kvm
Ctl = Callable[..., subprocess.CompletedProcess[str]]


def ctl(api: Served, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([VMM, "ctl", "--api-socket", api.path, *args], capture_output=True, text=True, timeout=60,
                          **more)  # fmt: skip


def fine(api: Served, *args: str, **more: Any) -> str:
    done = ctl(api, *args, **more)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_a_vms_life(api: Served, forever: Path, image: Path) -> None:
    config = {"payload": {"kernel": str(forever)}, "memory": {"size": 64 * MIB}, "console": {"mode": "Off"}}
    assert re.fullmatch(r"vmm \S+, pid \d+\n", fine(api, "ping"))
    fine(api, "create", input=json.dumps(config))
    fine(api, "boot")
    fine(api, "pause")
    shown = fine(api, "info")
    assert shown.startswith("Paused: 1 of 1 vCPUs, 64M of RAM\n")
    assert re.search(r"^rng0 +rng +0000:00:\d\d\.0", shown, re.MULTILINE)
    fine(api, "resume")
    assert fine(api, "add-disk", f"path={image},readonly=on,id=data").startswith("id data  bdf 0000:00:")
    assert json.loads(fine(api, "--json", "add", "pvpanic"))["id"] == "pvpanic0"
    assert api.info()["config"]["disks"][0]["readonly"] is True
    fine(api, "remove-device", "--force", "data")
    assert re.search(r"^vcpu0 +mmio +\d+$", fine(api, "counters"), re.MULTILINE)
    assert json.loads(fine(api, "--json", "info"))["state"] == "Running"
    assert json.loads(fine(api, "openapi"))["openapi"] == "3.1.0"
    assert "vmm_state" in fine(api, "metrics")
    fine(api, "reboot")
    fine(api, "shutdown")
    fine(api, "delete")
    fine(api, "shutdown-vmm")
    assert api.end()[0] == 0


#: what is typed, the call that it makes, and its body
COMMANDS: list[tuple[list[str], str, Any]] = [
    (["ping"], "vmm.ping", None), (["info"], "vm.info", None), (["counters"], "vm.counters", None),
    (["boot"], "vm.boot", None), (["delete"], "vm.delete", None), (["nmi"], "vm.nmi", None),
    (["pause"], "vm.pause", None), (["power-button"], "vm.power-button", None), (["reboot"], "vm.reboot", None),
    (["resume"], "vm.resume", None), (["shutdown"], "vm.shutdown", None), (["shutdown-vmm"], "vmm.shutdown", None),
    (["openapi"], "openapi.json", None), (["metrics"], "metrics", None),
    (["create", "/dev/stdin"], "vm.create", {"payload": {}}),
    (["resize", "--cpus", "3", "--memory", "1G", "--balloon", "64M"], "vm.resize",
     {"desired_vcpus": 3, "desired_ram": 1 << 30, "desired_balloon": 64 * MIB}),
    (["resize", "--cpus", "2"], "vm.resize", {"desired_vcpus": 2}),
    (["resize-disk", "--disk", "d", "--size", "8M"], "vm.resize-disk", {"id": "d", "desired_size": 8 * MIB}),
    (["resize-zone", "--id", "z", "--size", "1G"], "vm.resize-zone", {"id": "z", "desired_ram": 1 << 30}),
    (["remove-device", "d"], "vm.remove-device", {"id": "d"}),
    (["remove-device", "--force", "d"], "vm.remove-device", {"id": "d", "force": True}),
    (["add-disk", "path=/x,readonly=on,id=d"], "vm.add-disk", {"path": "/x", "readonly": True, "id": "d"}),
    (["add-net", "tap=tap7,mac=02:00:00:00:00:01"], "vm.add-net", {"tap": "tap7", "mac": "02:00:00:00:00:01"}),
    (["add", "rng", "src=/dev/hwrng"], "vm.add-device-type/rng", {"src": "/dev/hwrng"}),
    (["add-fs", "tag=t,socket=/s,num_queues=2"], "vm.add-fs", {"tag": "t", "socket": "/s", "num_queues": 2}),
    (["add-pmem", "file=/x,discard_writes=on"], "vm.add-pmem", {"file": "/x", "discard_writes": True}),
    (["add-vsock", "cid=3,socket=/s"], "vm.add-vsock", {"cid": 3, "socket": "/s"}),
    (["add-vdpa", "path=/x"], "vm.add-vdpa", {"path": "/x"}),
    (["add-device", "path=/x"], "vm.add-device", {"path": "/x"}),
    (["add-user-device", "socket=/s"], "vm.add-user-device", {"socket": "/s"}),
    (["add-generic-vhost-user", "socket=/s"], "vm.add-generic-vhost-user", {"socket": "/s"}),
    (["snapshot", "file:///x"], "vm.snapshot", {"destination_url": "file:///x"}),
    (["restore", "source_url=file:///x,prefault=on"], "vm.restore", {"source_url": "file:///x", "prefault": True}),
    (["coredump", "file:///x"], "vm.coredump", {"destination_url": "file:///x"}),
    (["send-migration", "unix:/x,local=on"], "vm.send-migration", {"destination_url": "unix:/x", "local": True}),
    (["receive-migration", "unix:/x"], "vm.receive-migration", {"receiver_url": "unix:/x"}),
]  # fmt: skip


@pytest.mark.parametrize(("args", "call", "body"), COMMANDS, ids=[" ".join(args) for args, *_ in COMMANDS])
def test_what_a_command_asks(monkeypatch: pytest.MonkeyPatch, args: list[str], call: str, body: Any) -> None:
    asked: list[tuple[str, str, Any]] = []

    def record(_: Client, method: str, name: str, body: Any = None, fds: Any = ()) -> None:
        asked.append((method, name, body))

    monkeypatch.setattr(Client, "call", record)
    with tempfile.NamedTemporaryFile("w") as file:
        json.dump(body, file)
        file.flush()
        words = [file.name if word == "/dev/stdin" else word for word in args]
        command.main(["--api-socket", "/nowhere", *words], standalone_mode=False)
    ((method, name, sent),) = asked
    assert (method, name) == ("PUT" if name in PUTS else "GET", call)
    assert sent == body if body is None else body.items() <= sent.items()


PUTS = {call.name for call in table(Catalog((), True)) if call.method == "PUT"}


def test_every_call_has_a_command() -> None:
    """Of a device type that has no call of its own, `add` is the command."""
    calls = {call.name for call in table(Catalog((), True)) if not call.name.startswith("vm.add-device-type/")}
    assert calls <= {call for _, call, _ in COMMANDS}


def test_a_descriptor_is_handed_over(api: Served, forever: Path, tap: int) -> None:
    fine(api, "create", input=json.dumps({"payload": {"kernel": str(forever)}, "console": {"mode": "Off"}}))
    fine(api, "boot")
    shown = json.loads(fine(api, "--json", "add-net", f"fd=[{tap}],mac=02:00:00:00:00:07,id=n", pass_fds=[tap]))
    assert shown["id"] == "n"
    assert api.info()["config"]["net"][0]["mac"] == "02:00:00:00:00:07"


def test_a_config_in_a_file(api: Served, forever: Path, tmp_path: Path) -> None:
    path = tmp_path / "vm.json"
    path.write_text(json.dumps({"payload": {"kernel": str(forever)}}))
    fine(api, "create", str(path))
    fine(api, "resize", "--memory", "1G")
    assert api.info()["config"]["memory"]["size"] == 1024 * MIB
    assert "512M" not in fine(api, "info")


def test_the_socket_from_the_environment(idle: Served) -> None:
    done = subprocess.run([VMM, "ctl", "ping"], env={**os.environ, "VMM_API_SOCKET": idle.path}, capture_output=True,
                          text=True, timeout=60)  # fmt: skip
    assert done.stdout.startswith("vmm ")


@pytest.mark.parametrize(("args", "words"), [
    (["boot"], "the VM is not created; vm.create does that (404)"),
    (["add-disk", "path=/x,redonly=on"], "add-disk: unknown key 'redonly'; did you mean readonly?"),
    (["add-disk", ""], "add-disk path=: missing; give path=PATH"),
    (["add-fs", "tag=a,socket=/s"], "vm.add-fs is not served yet; it is left to a later plugin (501)"),
    (["snapshot", "file:///x"], "vm.snapshot is not served yet; it is left to a later plugin (501)"),
    (["restore", "source_url=file:///x,prefault=on"], "vm.restore is not served yet; it is left to a later plugin"),
    (["resize"], "resize: nothing to change; give --cpus, --memory or --balloon"),
    (["resize", "--memory", "much"], "--memory: 'much' is not a size (512M, 2G, 4096, …)"),
    (["create", "/nonexistent"], "create: /nonexistent: "),
    (["add", "nonsense"], "there is no /api/v1/vm.add-device-type/nonsense"),
    (["nonsense"], "nonsense"),
])  # fmt: skip
def test_errors_are_one_line(idle: Served, args: list[str], words: str) -> None:
    done = ctl(idle, *args)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.startswith("vmm: error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_nobody_is_there(tmp_path: Path) -> None:
    done = subprocess.run([VMM, "ctl", "--api-socket", f"{tmp_path}/none", "ping"], capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    assert done.returncode == 2
    assert "name the socket of a running `vmm run --api-socket`" in done.stderr
    done = subprocess.run([VMM, "ctl", "ping"], capture_output=True, text=True, timeout=60)
    assert done.stderr.startswith("vmm: error: --api-socket: is missing")


def test_events(api: Served, forever: Path) -> None:
    command = [VMM, "ctl", "--api-socket", api.path, "events"]
    told: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        stdout = listener.stdout
        assert stdout is not None
        reader = threading.Thread(target=lambda: told.append(json.loads(stdout.readline())["source"]))
        reader.start()
        api.create(forever)
        while not told:  # it may begin to listen after the first boot
            api.put("vm.boot")
            api.put("vm.shutdown")
            reader.join(0.1)
        listener.kill()
        reader.join(60)
    assert told == ["vm"]
