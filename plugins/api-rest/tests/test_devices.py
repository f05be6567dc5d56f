# SPDX-License-Identifier: Apache-2.0
"""Devices through the API: added and removed, cold and hot, with descriptors, by third parties' types."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_served import MIB, Served

pytestmark = pytest.mark.needs_kvm


def disks(api: Served) -> list[str]:
    return [disk.get("id") for disk in api.info()["config"].get("disks", [])]


def tree(api: Served) -> dict[str, Any]:
    found: dict[str, Any] = api.info()["device_tree"]
    return found


def test_a_disk_comes_and_goes(running: Served, image: Path) -> None:
    before = running.fds()
    for _ in range(3):
        answer = running.call("PUT", "vm.add-disk", {"path": str(image), "id": "data"})
        assert answer["id"] == "data"
        assert tree(running)["data"]["pci_bdf"] == answer["bdf"]
        assert disks(running) == ["data"]
        assert running.put("vm.resize-disk", {"id": "data", "desired_size": 2 * MIB}) == 204
        assert image.stat().st_size == 2 * MIB
        assert running.put("vm.remove-device", {"id": "data", "force": True}) == 204
        assert disks(running) == []
        assert "data" not in tree(running)
        assert running.put("vm.remove-device", {"id": "data", "force": True}) == 404
    assert running.holds_no_more(before)


def test_what_was_added_is_there_after_the_next_boot(running: Served, image: Path) -> None:
    running.call("PUT", "vm.add-disk", {"path": str(image), "id": "data"})
    assert running.put("vm.reboot") == 204
    assert "data" in tree(running)
    running.put("vm.shutdown")
    assert disks(running) == ["data"]
    assert running.put("vm.boot") == 204
    assert "data" in tree(running)


def test_what_was_removed_is_not(running: Served) -> None:
    assert running.put("vm.remove-device", {"id": "rng0", "force": True}) == 204
    running.put("vm.shutdown")
    assert "rng" not in running.info()["config"]
    running.put("vm.boot")
    assert "rng0" not in tree(running)


def test_cold_devices(api: Served, forever: Path, image: Path) -> None:
    assert api.put("vm.add-disk", {"path": str(image)}) == 404
    api.create(forever)
    assert api.request("PUT", "vm.add-disk", {"path": str(image), "id": "a"}) == (204, None)
    assert api.put("vm.add-disk", {"path": "/elsewhere", "id": "a"}) == 409
    assert disks(api) == ["a"]
    assert api.put("vm.remove-device", {"id": "a"}) == 204
    assert api.put("vm.remove-device", {"id": "a"}) == 404
    assert api.request("PUT", "vm.add-disk", {"path": str(image)}) == (204, None)
    assert api.put("vm.boot") == 204
    assert disks(api) == ["disk0"]


def test_what_the_guest_ignores_is_pending(running: Served, image: Path) -> None:
    """It has no driver that would let go: the answer says so, device and id stay until it is forced."""
    disk = {"path": str(image), "id": "data", "readonly": True}
    bdf = running.call("PUT", "vm.add-disk", disk)["bdf"]
    for _ in range(2):
        pending = {"id": "data", "state": "pending"}
        assert running.request("PUT", "vm.remove-device", {"id": "data"}) == (200, pending)
        assert tree(running)["data"]["removing"] is True
        assert disks(running) == ["data"]
        assert running.put("vm.add-disk", disk) == 409
    assert running.put("vm.remove-device", {"id": "data", "force": True}) == 204
    assert disks(running) == []
    assert running.call("PUT", "vm.add-disk", disk) == {"id": "data", "bdf": bdf}
    assert "removing" not in tree(running)["data"]


def test_watchdog_and_pvpanic_are_switches(api: Served, forever: Path) -> None:
    switches = ("watchdog", "pvpanic")
    api.create(forever, watchdog=True, pvpanic=True)
    assert api.put("vm.boot") == 204
    for name in switches:
        assert api.info()["config"][name] is True
        assert tree(api)[f"{name}0"]["type"] == name
        assert api.put(f"vm.add-device-type/{name}", {}) == 409
        assert api.put("vm.remove-device", {"id": f"{name}0", "force": True}) == 204
        assert api.info()["config"][name] is False
        assert f"{name}0" not in tree(api)
        assert api.call("PUT", f"vm.add-device-type/{name}", {})["id"] == f"{name}0"
        assert api.info()["config"][name] is True
    assert api.put("vm.shutdown") == 204
    assert api.put("vm.boot") == 204
    assert {f"{name}0" for name in switches} <= tree(api).keys()


@pytest.mark.parametrize(("call", "body"), [
    ("vm.snapshot", {"destination_url": "file:///x"}), ("vm.coredump", {"destination_url": "file:///x"}),
    ("vm.restore", {"source_url": "file:///x", "prefault": False, "memory_restore_mode": "Copy", "net_fds": None,
                    "vfio_fds": None, "iommufd_fd": None, "resume": False, "zone_updates": []}),
    ("vm.send-migration", {"destination_url": "unix:/x", "local": False, "preserve_source": False, "connections": 1,
                           "downtime_ms": 300, "timeout_s": 3600, "timeout_strategy": "Cancel", "tls_dir": None,
                           "memory_mode": "Precopy"}),
    ("vm.receive-migration", {"receiver_url": "unix:/x", "tls_dir": None, "memory_mode": "Precopy", "vfio_fds": None,
                              "iommufd_fd": None, "zone_updates": []}),
    ("vm.add-fs", {"pci_segment": 0, "tag": "t", "socket": "/s", "num_queues": 1, "queue_size": 1024}),
    ("vm.add-pmem", {"pci_segment": 0, "file": "/x", "discard_writes": False}),
    ("vm.add-vsock", {"pci_segment": 0, "cid": 3, "socket": "/s"}),
    ("vm.add-vdpa", {"pci_segment": 0, "path": "/x", "num_queues": 1}),
    ("vm.add-device", {"pci_segment": 0, "path": "/x", "x_exclude_mmap_bars": []}),
    ("vm.add-user-device", {"pci_segment": 0, "socket": "/s"}),
    ("vm.add-generic-vhost-user", {"pci_segment": 0, "socket": "/s", "queue_sizes": [128], "device_type": 1}),
])  # fmt: skip
def test_what_a_later_plugin_will_serve_answers_with_one_sentence(steady: Served, call: str, body: Any) -> None:
    """Whatever ch-remote says in it."""
    status, answer = steady.request("PUT", call, body)
    assert status == 501
    assert answer == [f"{call} is not served yet; it is left to a later plugin"]
    assert steady.info()["state"] == "Running"


def test_bodies_as_ch_remote_writes_them(running: Served, image: Path, tap: int) -> None:
    """Every option is written out, most as nothing."""
    disk = {"pci_segment": 0, "path": str(image), "readonly": False, "direct": False, "num_queues": 1,
            "queue_size": 128, "vhost_user": False, "disable_io_uring": False, "disable_aio": False,
            "backing_files": False, "sparse": True, "image_type": "Unknown",
            "lock_granularity": "ByteRange"}  # fmt: skip
    net = {"pci_segment": 0, "mac": "02:00:00:00:00:01", "num_queues": 2, "queue_size": 256, "vhost_user": False,
           "vhost_mode": "Client", "offload_tso": True, "offload_ufo": True, "offload_csum": True}  # fmt: skip
    assert running.call("PUT", "vm.add-disk", disk)["id"] == "disk0"
    assert running.request("PUT", "vm.add-net", net, fds=[tap])[1]["id"] == "net0"
    shown = running.info()["config"]
    assert disk.items() - shown["disks"][0].items() == {("image_type", "Unknown")}
    assert net.items() <= shown["net"][0].items()
    sizes = {"desired_vcpus": 1, "desired_ram": None, "desired_balloon": None}
    assert running.put("vm.resize", sizes) == 204


@pytest.mark.parametrize(("call", "body", "status", "words"), [
    ("vm.add-disk", {"path": "/nonexistent"}, 400, "--disk path=: /nonexistent: No such file"),
    ("vm.add-disk", {"path": "/x", "num_queues": 0}, 400, "num_queues: 0 is too small"),
    ("vm.add-disk", {"path": "/x", "readonly": "yes"}, 400, "readonly: expected boolean"),
    ("vm.add-disk", {"path": "/x", "redonly": True}, 400, "did you mean readonly?"),
    ("vm.add-disk", {"path": "/x", "vhost_user": True}, 501, "disks.vhost_user=True is not served yet"),
    ("vm.add-disk", {}, 400, "path: missing"),
    ("vm.add-net", {"mac": "nonsense"}, 400, "net mac=: 'nonsense'"),
    ("vm.add-rng", {}, 404, "there is no /api/v1/vm.add-rng"),
    ("vm.add-device-type/rng", {}, 409, "there is one rng at most"),
    ("vm.add-device-type/serial", {"mode": "Null"}, 409, "there is one serial at most"),
    ("vm.add-device-type/debugcon", {"mode": "Null"}, 400, "only PCI devices can be added to a running VM"),
    ("vm.add-fs", {"tag": "t", "socket": "s"}, 501, "not served yet"),
    ("vm.add-device-type/nonsense", {}, 404, "there is no"),
    ("vm.remove-device", {"id": "serial0"}, 400, "serial0 is not on PCI"),
    ("vm.resize-disk", {"id": "nonsense", "desired_size": 512}, 404, "there is no disk 'nonsense'"),
    ("vm.resize", {"desired_balloon": 4096}, 400, "desired_balloon: the VM has no balloon"),
    ("vm.resize-zone", {"id": "z", "desired_ram": 4096}, 404, "there is no memory zone 'z'"),
])  # fmt: skip
def test_refusals_are_one_line_and_change_nothing(
    steady: Served, call: str, body: Any, status: int, words: str
) -> None:
    before = steady.info()
    answer = steady.request("PUT", call, body)
    assert answer[0] == status, answer
    (line,) = answer[1]
    assert words in line
    assert "\n" not in line
    assert steady.info() == before


def test_a_network_from_a_descriptor(running: Served, tap: int) -> None:
    before = running.fds()
    status, answer = running.request("PUT", "vm.add-net", {"id": "n", "fds": [7]}, fds=[tap])
    assert status == 200, answer
    assert running.info()["config"]["net"][0]["fds"] == [-1]
    # It is kept: the VM may be booted again.
    assert running.put("vm.shutdown") == 204
    assert running.put("vm.boot") == 204
    assert "n" in tree(running)
    assert running.put("vm.remove-device", {"id": "n", "force": True}) == 204
    assert running.holds_no_more(before)
    # One that is no TAP is refused, and does not stay open.
    with open("/dev/null") as null:
        assert running.request("PUT", "vm.add-net", {}, fds=[null.fileno()])[0] == 400
        assert running.request("PUT", "vm.pause", None, fds=[null.fileno()])[0] == 204
    assert sum("/dev/null" in path for path in running.fds()) <= 1


@pytest.mark.parametrize("options", ["", ",id=n"])
def test_a_network_from_a_descriptor_that_a_flag_names(
    serve: Callable[..., Served], forever: Path, options: str
) -> None:
    """The VM gets it at every boot, not a new TAP; it is closed when the device goes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        link = os.readlink(f"/proc/self/fd/{fd}")
        api = serve("--kernel", str(forever), "--memory", "64M", "--serial", "null", "--console", "off",
                    "--net", f"fd=[{fd}]{options}", pass_fds=[fd])  # fmt: skip
        while api.info()["state"] == "Created":  # it is booted while we ask
            select.select([], [], [], 0.02)
        (net,) = api.info()["config"]["net"]
        assert net["fds"] == [-1]
        assert net["id"] == ("n" if options else "net0")
        for _ in range(2):
            assert net["id"] in tree(api)
            opened = [os.readlink(path) for path in Path(f"/proc/{api.runner()}/fd").iterdir()]
            assert link in opened
            assert not any("/net/tun" in path for path in opened)
            assert api.put("vm.shutdown") == 204
            assert api.fds().count(link) == 1
            assert api.put("vm.boot") == 204
        assert api.put("vm.remove-device", {"id": net["id"], "force": True}) == 204
        assert link not in api.fds()


@pytest.mark.parametrize(("flags", "words"), [
    (["fd=[999]"], "999 is no open file"), (["fd=[1]"], "1 is in use already"),
    (["fd=[0,0],num_queues=4"], "names a descriptor twice"), (["fd=[{}]", "fd=[{}]"], "is in use already"),
])  # fmt: skip
def test_flags_with_descriptors_that_cannot_be_taken(
    tmp_path: Path, forever: Path, flags: list[str], words: str
) -> None:
    with open("/dev/null") as null:
        nets = [word for flag in flags for word in ("--net", flag.format(null.fileno()))]
        served = Served(tmp_path / "api.sock", "--kernel", str(forever), *nets, pass_fds=[null.fileno()])
        status, errors = served.end()
    assert status == 2
    assert errors.startswith("vmm: error: --net fd=: ")
    assert words in errors
    assert errors.count("\n") == 1


def test_the_descriptor_of_a_network_that_the_guest_let_go_is_closed(running: Served) -> None:
    """Nobody asks between its end and the VM's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = os.readlink(f"/proc/self/fd/{theirs.fileno()}")
        assert running.request("PUT", "vm.add-net", {"id": "n"}, fds=[theirs.fileno()])[0] == 200
        assert running.request("PUT", "vm.remove-device", {"id": "n"})[1] == {"id": "n", "state": "pending"}
        assert running.put("vm.reboot") == 204  # what was to go is not there after it
        assert link in running.fds()
        assert running.put("vm.shutdown") == 204
        assert "net" not in running.info()["config"]
        assert link not in running.fds()
        assert running.put("vm.boot") == 204
        assert "n" not in tree(running)
        assert link not in running.fds()


def test_descriptors_for_a_vm_that_is_not_booted(api: Served, forever: Path, taps: list[int]) -> None:
    """One for each queue pair; they wait for the boot, and for the next."""
    api.create(forever)
    before = api.fds()
    net = {"id": "n", "num_queues": 2 * len(taps)}
    assert api.request("PUT", "vm.add-net", {**net, "id": "few"}, fds=taps[:1])[0] == 400
    assert api.request("PUT", "vm.add-net", net, fds=taps) == (204, None)
    for _ in range(2):
        assert api.put("vm.boot") == 204
        assert api.info()["config"]["net"][0]["num_queues"] == 2 * len(taps)
        assert tree(api)["n"]["type"] == "net"
        assert api.put("vm.shutdown") == 204
    assert api.put("vm.remove-device", {"id": "n"}) == 204
    assert api.holds_no_more(before)


THIRD_PARTY = """
from vmmcore import Option, Options, PciDevice
from vmmcore.hooks import DeviceType, hookimpl

API = (1, 0)

class BellOptions(Options):
    tone = Option(int, 440, "Hz", min=20, max=20000)

class Bell(PciDevice):
    vendor_id, device_id = 0x1234, 0x0042

@hookimpl
def vmm_device_types():
    return [DeviceType("bell", "bell:Bell", options=BellOptions, doc="A bell.")]
"""


def test_a_third_partys_device(serve: Callable[..., Served], forever: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "bell.py"
    plugin.write_text(THIRD_PARTY)
    api = serve("--plugin", str(plugin))
    document = api.call("GET", "openapi.json")
    assert document["components"]["schemas"]["BellDevice"]["properties"]["tone"]["maximum"] == 20000
    assert "/vm.add-device-type/bell" in document["paths"]
    api.create(forever, bell=[{"tone": 880, "id": "big"}])
    assert api.put("vm.boot") == 204
    assert api.info()["config"]["bell"] == [{"tone": 880, "id": "big", "pci_segment": 0}]
    assert api.put("vm.add-device-type/bell", {"tone": 1}) == 400
    answer = api.call("PUT", "vm.add-device-type/bell", {"tone": 100})
    assert answer["id"] in tree(api)
    assert api.put("vm.remove-device", {"id": "big", "force": True}) == 204
    assert [bell["tone"] for bell in api.info()["config"]["bell"]] == [100]
