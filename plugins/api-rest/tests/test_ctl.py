# SPDX-License-Identifier: Apache-2.0
"""`vmm ctl`: every call from the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_served import MIB, VMM, Served

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


def test_the_socket_from_the_environment(api: Served) -> None:
    done = subprocess.run([VMM, "ctl", "ping"], env={**os.environ, "VMM_API_SOCKET": api.path}, capture_output=True,
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
def test_errors_are_one_line(api: Served, args: list[str], words: str) -> None:
    done = ctl(api, *args)
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
