# SPDX-License-Identifier: Apache-2.0
"""The VM's life through the API: states, answers, and what is left at the end."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from api_served import HEAD, MIB, Served
from vmm_testkit.baremetal import BareMetal
from vmmcore.errors import ExitCode

pytestmark = pytest.mark.needs_kvm

AT_ONCE = HEAD + "int main(struct hvm_start_info *si) { (void)si; return 0; }"


def test_life_cycle(api: Served, forever: Path) -> None:
    assert api.request("GET", "vm.info")[0] == 404
    assert api.put("vm.boot") == 404
    api.create(forever)
    assert api.info()["state"] == "Created"
    assert api.put("vm.pause") == 405
    assert api.put("vm.boot") == 204
    assert api.info()["state"] == "Running"
    assert api.put("vm.boot") == 405
    assert api.put("vm.resume") == 405
    assert api.put("vm.pause") == 204
    assert api.info()["state"] == "Paused"
    assert api.put("vm.pause") == 405
    assert api.put("vm.resume") == 204
    assert "vcpu0" in api.call("GET", "vm.counters")
    assert api.put("vm.reboot") == 204
    assert api.info()["state"] == "Running"
    assert api.put("vm.shutdown") == 204
    assert api.info()["state"] == "Created"
    assert api.put("vm.boot") == 204
    assert api.put("vm.delete") == 204
    assert api.request("GET", "vm.info")[0] == 404
    assert api.put("vm.delete") == 204


def test_with_only_a_socket_it_waits_for_a_vm(api: Served, forever: Path) -> None:
    for _ in range(2):
        assert api.request("GET", "vm.info") == (404, ["the VM is not created; vm.create does that"])
        assert api.process.poll() is None
        api.create(forever)
        assert api.put("vm.boot") == 204
        assert api.info()["state"] == "Running"
        assert api.put("vm.delete") == 204


def test_a_vm_of_which_only_the_kernel_is_said(api: Served, forever: Path) -> None:
    api.call("PUT", "vm.create", {"payload": {"kernel": str(forever)}})
    assert api.put("vm.boot") == 204
    info = api.info()
    assert info["memory_actual_size"] == info["config"]["memory"]["size"] == 512 * MIB
    assert {node["type"] for node in info["device_tree"].values()} == {"serial", "console", "rng"}
    assert info["config"]["rng"]["id"] in info["device_tree"]


def test_what_is_configured_and_is_no_device_stays_configured(api: Served, forever: Path) -> None:
    items = [{"name": f"opt/org.example/{name}", "string": name} for name in ("a", "b")]
    api.create(forever, serial={"mode": "Off"}, **{"fw-cfg": items})
    assert api.put("vm.boot") == 204
    info = api.info()
    assert [item["name"] for item in info["config"]["fw-cfg"]] == [item["name"] for item in items]
    assert info["config"]["serial"]["mode"] == info["config"]["console"]["mode"] == "Off"
    assert {node["type"] for node in info["device_tree"].values()} == {"fw-cfg", "rng"}
    assert api.put("vm.shutdown") == 204
    assert api.put("vm.boot") == 204
    assert len(api.info()["config"]["fw-cfg"]) == 2


@pytest.mark.arch("x86_64", reason="Arm has no NMI")
def test_an_nmi_reaches_the_guest(running: Served) -> None:
    """One that stands gets it when it goes on; this one has nothing that would handle it."""
    assert running.put("vm.pause") == 204
    assert running.put("vm.nmi") == 204
    assert running.info()["state"] == "Paused"
    assert running.put("vm.resume") == 204
    assert running.end()[0] == ExitCode.TRIPLE_FAULT


@pytest.mark.arch("x86_64", reason="Arm without ACPI has a fixed number of CPUs")
def test_sizes(api: Served, forever: Path) -> None:
    api.create(forever, cpus={"boot_vcpus": 1, "max_vcpus": 3}, balloon={"size": 0},
               memory={"size": 128 * MIB, "hotplug_size": 512 * MIB})  # fmt: skip
    assert api.put("vm.resize", {"desired_ram": 64 * MIB}) == 204  # not booted: the configuration changes
    assert api.info()["memory_actual_size"] == 64 * MIB
    assert api.put("vm.resize", {"desired_vcpus": 4}) == 400
    assert api.put("vm.boot") == 204
    assert api.put("vm.pause") == 204
    assert api.put("vm.resize", {"desired_vcpus": 3, "desired_ram": None}) == 204
    assert api.info()["state"] == "Paused"
    assert api.put("vm.resume") == 204
    assert api.put("vm.resize", {"desired_ram": 192 * MIB}) == 204
    assert api.put("vm.resize", {"desired_vcpus": 4}) == 400
    assert api.put("vm.resize", {"desired_ram": 32 * MIB}) == 400
    assert api.put("vm.resize", {"desired_balloon": 16 * MIB}) == 204
    for _ in range(2):
        info = api.info()
        assert info["config"]["cpus"]["boot_vcpus"] == 3
        assert info["config"]["memory"]["hotplugged_size"] == 128 * MIB
        assert info["config"]["balloon"]["size"] == 16 * MIB
        assert info["memory_actual_size"] == 192 * MIB  # no driver has filled the balloon
        assert {"vcpu0", "vcpu1", "vcpu2"} <= api.call("GET", "vm.counters").keys()
        assert api.put("vm.reboot") == 204
    assert api.put("vm.shutdown") == 204
    assert api.put("vm.boot") == 204
    assert api.info()["memory_actual_size"] == 192 * MIB


@pytest.mark.arch("x86_64", reason="Arm without ACPI has a fixed number of CPUs")
def test_the_size_of_a_vm_that_was_shut_down_after_a_resize(api: Served, forever: Path) -> None:
    api.create(forever, memory={"size": 128 * MIB, "hotplug_size": 512 * MIB})
    assert api.put("vm.boot") == 204
    assert api.put("vm.resize", {"desired_ram": 256 * MIB}) == 204
    assert api.info()["memory_actual_size"] == 256 * MIB
    assert api.put("vm.shutdown") == 204
    assert api.info()["memory_actual_size"] == 256 * MIB
    assert api.put("vm.resize", {"desired_ram": 192 * MIB}) == 204
    assert api.info()["memory_actual_size"] == 192 * MIB
    assert api.put("vm.boot") == 204
    assert api.info()["memory_actual_size"] == 192 * MIB


def test_the_size_of_a_zone_that_is_not_booted(api: Served, forever: Path) -> None:
    zone = {"id": "z", "size": 128 * MIB, "hotplug_size": 512 * MIB, "hotplugged_size": 128 * MIB}
    api.create(forever, memory={"size": 0, "hotplug_method": "VirtioMem", "zones": [zone]})
    assert api.info()["memory_actual_size"] == 256 * MIB
    assert api.put("vm.resize-zone", {"id": "z", "desired_ram": 192 * MIB}) == 204
    info = api.info()
    assert info["memory_actual_size"] == 192 * MIB
    assert "hotplugged_size" not in info["config"]["memory"]["zones"][0]


def test_nothing_is_left_of_a_vm(api: Served, forever: Path) -> None:
    api.create(forever)
    api.put("vm.boot")
    api.put("vm.shutdown")
    before = api.fds()  # with the connection of the last call, perhaps
    for _ in range(5):
        assert api.put("vm.boot") == 204
        assert api.put("vm.shutdown") == 204
    assert api.holds_no_more(before)


def test_the_process_ends_when_it_is_told_to(api: Served, forever: Path) -> None:
    api.create(forever)
    api.put("vm.boot")
    assert api.put("vmm.shutdown") == 204
    assert api.end() == (0, "")
    assert not os.path.exists(api.path)


def test_the_process_ends_with_a_guest_that_ends(api: Served) -> None:
    api.create(BareMetal(AT_ONCE).build())
    api.put("vm.boot")
    assert api.end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_vm_and_process(running: Served, number: signal.Signals) -> None:
    running.process.send_signal(number)
    assert running.end() == (128 + number, "")
    assert not os.path.exists(running.path)


def test_a_runner_that_is_killed_ends_the_process(running: Served) -> None:
    os.kill(running.runner(), signal.SIGKILL)
    assert running.end()[0] == 128 + signal.SIGKILL


def test_flags_describe_the_vm_that_runs_at_once(serve: Callable[..., Served], forever: Path, image: Path) -> None:
    api = serve("--kernel", str(forever), "--memory", "64M", "--serial", "null", "--disk", f"path={image},readonly=on",
                "--pvpanic", "on", "--name", "named")
    info = api.info()
    assert info["state"] in ("Created", "Running")  # it is booted while we ask
    assert info["config"]["memory"]["size"] == 64 * MIB
    assert info["config"]["disks"][0]["path"] == str(image)
    assert info["config"]["disks"][0]["readonly"] is True
    assert info["config"]["serial"]["mode"] == "Null"
    assert info["config"]["pvpanic"] is True
    assert api.put("vm.create", {"payload": {"kernel": "x"}}) == 405


def test_flags_that_cannot_be_booted_end_it_with_one_line(tmp_path: Path) -> None:
    socket = tmp_path / "api.sock"
    status, errors = Served(socket, "--kernel", "/nonexistent").end()
    assert status == 2
    assert re.fullmatch(r"vmm: error: --kernel: /nonexistent: .*\n", errors)
    assert not socket.exists()


@pytest.mark.parametrize(("args", "words"), [
    (["--memory", "1G"], "--memory: describes a machine that has nothing to boot"),
    (["--disk", "path=x"], "--disk: describes a machine that has nothing to boot"),
    (["--plan", "x"], "--api-socket: cannot be combined with --plan"),
])  # fmt: skip
def test_options_that_make_no_machine(tmp_path: Path, args: list[str], words: str) -> None:
    status, errors = Served(tmp_path / "api.sock", *args).end()
    assert status == 2
    assert re.fullmatch(rf"vmm: error: {words}; .*\n", errors)


def test_the_socket_is_private_and_only_a_stale_one_is_replaced(serve: Callable[..., Served]) -> None:
    first = serve()
    status = os.stat(first.path)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == os.geteuid()
    code, errors = Served(Path(first.path)).end()
    assert code == 2
    assert "another program listens there" in errors
    assert first.request("GET", "vmm.ping")[0] == 200
    first.process.kill()
    first.process.wait()
    assert os.path.exists(first.path)
    again = serve(socket=Path(first.path))
    assert again.call("GET", "vmm.ping")["pid"] == again.process.pid


def test_one_of_two_replaces_a_stale_socket(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    both = [Served(path) for _ in range(2)]
    try:
        while all(served.process.poll() is None for served in both):
            select.select([], [], [], 0.02)
        (loser,) = [served for served in both if served.process.poll() is not None]
        (winner,) = [served for served in both if served is not loser]
        status, errors = loser.end()
        assert status == 2
        assert "another program listens there" in errors
        assert winner.ready().call("GET", "vmm.ping")["pid"] == winner.process.pid
    finally:
        for served in both:
            if served.process.poll() is None:
                served.stop()


ASK_AS_ANOTHER = """
import os, socket, sys
client = socket.socket(socket.AF_UNIX)
os.setgroups([])
os.setgid(12345)
os.setuid(12345)
client.connect(sys.argv[1])
try:
    client.sendall(b"GET /api/v1/vmm.ping HTTP/1.1\\r\\nHost: l\\r\\n\\r\\n")
    print(client.recv(100))
except ConnectionError:
    print(b"")
"""


def test_another_user_is_not_served_even_if_the_mode_lets_him(serve: Callable[..., Served]) -> None:
    if os.geteuid():
        pytest.skip("needs root, to be another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        api = serve(socket=Path(folder) / "api.sock")
        ask = [sys.executable, "-c", ASK_AS_ANOTHER, api.path]
        refused = subprocess.run(ask, capture_output=True, text=True, timeout=60)
        assert "PermissionError" in refused.stderr
        os.chmod(api.path, 0o666)
        assert subprocess.run(ask, capture_output=True, text=True, timeout=60).stdout == "b''\n"
        assert api.request("GET", "vmm.ping")[0] == 200


@pytest.mark.parametrize(("where", "words"), [
    ("{tmp}/nowhere/api.sock", "create the folder first"),
    ("{tmp}/file", "exists, and is no socket"),
    ("{tmp}/" + "x" * 120, "longer than 107 bytes"),
    ("fd=99", "99 is no Unix socket that listens"),
    ("fd=7,path=x", "it is not said where"),
])  # fmt: skip
def test_places_where_no_socket_can_be(tmp_path: Path, where: str, words: str) -> None:
    (tmp_path / "file").write_text("mine")
    status, errors = Served(tmp_path / "unused", where=where.format(tmp=tmp_path)).end()
    assert status == 2
    assert re.fullmatch(rf"vmm: error: --api-socket.*: .*{words}.*\n", errors)
    assert (tmp_path / "file").read_text() == "mine"


def test_another_users_stale_socket_is_kept(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to make a file of another user's")
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
    os.chown(path, 12345, 12345)
    status, errors = Served(path).end()
    assert status == 2
    assert "belongs to another user" in errors
    assert path.exists()


def test_a_listening_descriptor_can_be_passed(serve: Callable[..., Served], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "own.sock"))
        listener.listen()
        number = listener.fileno()
        api = serve(socket=tmp_path / "own.sock", where=f"fd={number}", pass_fds=[number])
    assert api.put("vmm.shutdown") == 204
    assert api.end()[0] == 0
