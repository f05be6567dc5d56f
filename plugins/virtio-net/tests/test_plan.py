# SPDX-License-Identifier: Apache-2.0
"""`--net`: what it accepts, what it plans and opens, and what it says when it cannot."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vmm_testkit.planning import plan_context
from vmmcore.errors import UserError
from vmmcore.front.planning import PlanContext

from vmm_virtio_net import tap, user
from vmm_virtio_net.plugin import NetOptions, plan, vmm_device_types


@pytest.fixture
def context() -> Iterator[PlanContext]:
    with plan_context() as context:
        yield context


def planned(context: PlanContext, text: str) -> dict[str, Any]:
    device: dict[str, Any] = {"type": "net", "options": {}, "files": {}}
    plan(context, NetOptions.parse(text, "--net"), device)
    return device


BAD = [
    ("tpa=x", "--net.*tpa.*tap"),
    ("tap=averyverylongname", "--net tap=: .*15"),
    ("tap=a/b", "--net tap=: .*interface"),
    ("tap=a,macvtap=b", "--net macvtap=: .*tap="),
    ("tap=a,fd=[5]", "--net fd=: .*tap="),
    ("mode=user,tap=a", "--net tap=: .*user"),
    ("user,fd=[4]", "--net fd=: .*user"),
    ("mode=slirp", "--net mode=: .*user"),
    ("tap=a,mac=12:34", "--net mac=: .*52:54"),
    ("tap=a,mac=01:00:5e:00:00:01", "--net mac=: .*even"),
    ("tap=a,mac=00:00:00:00:00:00", "--net mac=: .*zero"),
    ("tap=a,host_mac=zz:00:00:00:00:00", "--net host_mac=: "),
    ("tap=a,ip=1.2.3", "--net ip=: .*1.2.3"),
    ("tap=a,ip=1.2.3.4,mask=255.0.255.0", "--net mask=: .*255.0.255.0"),
    ("tap=a,ip=1.2.3.4,mask=33", "--net mask=: .*33"),
    ("tap=a,ip=fd00::1,mask=129", "--net mask=: .*129"),
    ("tap=a,mask=24", "--net mask=: .*ip="),
    ("user,ip=1.2.3.4", "--net ip=: .*user"),
    ("macvtap=a,host_mac=52:54:00:00:00:01", "--net host_mac=: .*macvtap="),
    ("tap=a,num_queues=3", "--net num_queues=: .*4"),
    ("tap=a,num_queues=0", "--net num_queues=: "),
    ("tap=a,num_queues=1000", "--net num_queues=: "),
    ("user,num_queues=4", "--net num_queues=: .*one"),
    ("fd=[7,8],num_queues=2", "--net fd=: .*num_queues=4"),
    ("fd=[7,7],num_queues=4", "--net fd=: .*twice"),
    ("tap=a,queue_size=100", "--net queue_size=: .*power"),
    ("tap=a,queue_size=4096", "--net queue_size=: .*1024"),
    ("tap=a,mtu=20", "--net mtu=: .*68"),
    ("tap=a,mtu=70000", "--net mtu=: .*65521"),
    ("tap=a,vhost=maybe", "--net vhost=: .*on nor off"),
    ("user,vhost=on", "--net vhost=: .*user"),
    ("tap=a,vhost=on,packed=on", "--net packed=: .*vhost=off"),
    ("tap=a,vhost=on,ops_size=10,ops_refill_time=100", "--net ops_size=: .*vhost=off"),
    ("tap=a,bw_size=1M", "--net bw_refill_time=: "),
    ("tap=a,ports=[80:80]", "--net ports=: .*user"),
    ("user,ports=[80:]", "--net ports=: .*80:"),
    ("user,ports=[icmp:80:80]", "--net ports=: "),
    ("user,ports=[tcp:300.0.0.1:80:80]", "--net ports=: "),
    ("user,ports=[80:70000]", "--net ports=: "),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_bad_option_is_one_line_that_names_it(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        NetOptions.parse(text, "--net")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_tap_is_made_with_what_was_asked_for(tap_name: str, context: PlanContext) -> None:
    device = planned(context, f"tap={tap_name},ip=10.213.7.1,mask=28,host_mac=52:54:00:11:22:33,mtu=1400,num_queues=4,"
                     "mac=52:54:00:aa:bb:cc")
    assert list(device["files"]) == ["tap0", "tap1"]
    net = Path("/sys/class/net") / tap_name
    assert (net / "address").read_text().strip() == "52:54:00:11:22:33"
    assert (net / "mtu").read_text().strip() == "1400"
    assert int((net / "flags").read_text(), 16) & 1, "it is up"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("10.213.7.1", 0))  # the address is ours
    assert device["options"]["mac"] == "52:54:00:aa:bb:cc"
    assert context.plan["files"] == [{"tap": tap_name}] * 2
    while context.fds:
        os.close(context.fds.pop())
    assert not net.exists(), "it vanishes with its descriptors"


def test_an_ipv6_address_is_set_by_netlink(tap_name: str, context: PlanContext) -> None:
    pytest.importorskip("pyroute2", reason="pip install pyroute2")
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this kernel has no IPv6")
    planned(context, f"tap={tap_name},ip=fd00:213::1,mask=64")
    assert re.search(rf"^fd000213000000000000000000000001 .* 40 .*{tap_name}$", Path("/proc/net/if_inet6").read_text(),
                     re.MULTILINE)


def test_unnamed_taps_and_macs_are_different(context: PlanContext, taps: None) -> None:
    first, second = planned(context, ""), planned(context, "tap")
    names = {device["options"]["host"]["name"] for device in (first, second)}
    assert len(names) == 2 and all(re.fullmatch(r"vmmtap\d+", name) for name in names)
    assert first["options"]["mac"] != second["options"]["mac"]
    assert not int(first["options"]["mac"][:2], 16) & 1


def test_a_tap_of_somebody_else_stays(tap_name: str, context: PlanContext) -> None:
    if shutil.which("ip") is None:
        pytest.skip("no ip; apt-get install iproute2")
    subprocess.run(["ip", "tuntap", "add", tap_name, "mode", "tap"], check=True)
    try:
        planned(context, f"tap={tap_name}")
        with pytest.raises(UserError, match=r"--net tap=: .*in use"):
            planned(context, f"tap={tap_name}")
        with pytest.raises(UserError, match=r"--net tap=: .*one queue pair; .*multi_queue"):
            planned(context, f"tap={tap_name},num_queues=4")
        while context.fds:
            os.close(context.fds.pop())
        assert Path(f"/sys/class/net/{tap_name}").exists()
    finally:
        subprocess.run(["ip", "link", "del", tap_name], check=True)


def test_a_persistent_tap_of_many_queues_serves_one_pair(tap_name: str, context: PlanContext) -> None:
    if shutil.which("ip") is None:
        pytest.skip("no ip; apt-get install iproute2")
    subprocess.run(["ip", "tuntap", "add", tap_name, "mode", "tap", "multi_queue"], check=True)
    try:
        assert list(planned(context, f"tap={tap_name}")["files"]) == ["tap0"]
    finally:
        subprocess.run(["ip", "link", "del", tap_name], check=True)


@pytest.mark.parametrize(("text", "words"), [
    ("tap=lo", "--net tap=: lo is no TAP"),
    ("macvtap=lo", "--net macvtap=: lo is no macvtap .*ip link add link lo"),
    ("macvtap=nosuchif", "--net macvtap=: there is no interface nosuchif"),
    ("fd=[999]", "--net fd=: 999 is no open file"),
    ("fd=[0]", "--net fd=: 0 is in use"),
    ("tap={tap},mtu=65521,ip=224.0.0.1", "--net ip=: .*cannot set"),
    ("tap={tap},ip=10.213.8.1,vhost=on,host_mac=52:54:00:00:00:01", "--net vhost=: /dev/vhost-net .*modprobe"),
])
def test_what_fails_leaves_nothing(tap_name: str, text: str, words: str) -> None:
    if "vhost" in text and os.path.exists("/dev/vhost-net"):
        pytest.skip("this machine has /dev/vhost-net")
    before, taps = open_files(), set(os.listdir("/sys/class/net"))
    with plan_context() as context, pytest.raises(UserError, match=words) as caught:
        planned(context, text.format(tap=tap_name))
    assert "\n" not in str(caught.value)
    assert open_files() == before and set(os.listdir("/sys/class/net")) == taps


def test_no_permission_says_what_to_do(context: PlanContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"--net tap=: .*/dev/net/tun; .*CAP_NET_ADMIN.*--net user"):
        planned(context, "tap=x")


def test_a_dry_run_opens_nothing(taps: None) -> None:
    before = set(os.listdir("/sys/class/net"))
    with plan_context(dry_run=True) as context:
        device = planned(context, "tap=vmmdry0,ip=10.213.9.1")
        assert context.fds == [] and device["files"] == {}
        assert device["options"]["host"] == {
            "kind": "tap", "macvtap": None, "name": "vmmdry0", "ip": "10.213.9.1", "mask": None, "mac": None}
        assert planned(context, "user")["options"]["host"] == {"kind": "user"}
    assert set(os.listdir("/sys/class/net")) == before


def test_a_socket_can_be_passed(context: PlanContext) -> None:
    for kind, word in ((socket.SOCK_STREAM, "stream"), (socket.SOCK_DGRAM, "packet"), (socket.SOCK_SEQPACKET, "packet")):
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        with theirs:
            device = planned(context, f"fd=[{ours.detach()}]")
        assert device["options"]["host"]["kind"] == word
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(UserError, match="vhost="):
        planned(context, f"fd=[{ours.fileno()}],vhost=on")
    with open("/dev/null") as null, pytest.raises(UserError, match=r"--net fd=: .*neither a TAP nor a socket"):
        planned(context, f"fd=[{null.fileno()}]")


def test_taps_can_be_passed(tap_name: str, context: PlanContext) -> None:
    _, fds = tap.open_tap(tap_name, 2, "--net")
    device = planned(context, f"fd=[{fds[0]},{fds[1]}],num_queues=4")
    assert device["options"]["host"] == {"kind": "tap", "name": tap_name}
    assert context.fds == fds, "taken over"


# --- user mode ---------------------------------------------------------------------------


def helpers(word: str) -> list[int]:
    """Processes whose command line has `word`."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and word.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
        except OSError:
            pass
    return found


ARP = bytes.fromhex("ffffffffffff 525400010203 0806 0001 0800 06 04 0001 525400010203 0a00020f 000000000000 0a000202")


def gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    import select

    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 10)[0], f"{pid} still runs"
    finally:
        os.close(fd)


def test_passt_ends_with_its_socket() -> None:
    if shutil.which("passt") is None:
        pytest.skip("no passt; apt-get install passt")
    before = set(helpers("passt"))
    fd, kind = user.start([], None, "--net")
    started = set(helpers("passt")) - before
    assert kind == "stream" and stat.S_ISSOCK(os.fstat(fd).st_mode)
    assert started, "it runs"
    os.close(fd)
    for pid in started:
        gone(pid)


def test_passt_forwards_a_port_and_says_when_it_cannot() -> None:
    if shutil.which("passt") is None:
        pytest.skip("no passt; apt-get install passt")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    before, socks = set(helpers("passt")), open_files()
    fd, _ = user.start([f"tcp:{port}:80"], None, "--net")
    started = set(helpers("passt")) - before
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass  # passt listens for the guest
    with pytest.raises(UserError, match=r"--net.*passt"):
        user.start([f"tcp:{port}:80"], None, "--net")
    os.close(fd)
    for pid in started:
        gone(pid)
    assert open_files() == socks


def test_slirp_ends_with_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("libslirp-helper") is None:
        pytest.skip("no libslirp-helper; apt-get install libslirp-helper")
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None if name == "passt" else which(name, path=path))
    with pytest.raises(UserError, match=r"--net ports=: .*passt"):
        user.start(["80:80"], None, "--net")
    fd, kind = user.start([], None, "--net")
    assert kind == "packet"
    started = helpers("libslirp-helper")
    os.set_blocking(fd, True)
    os.write(fd, ARP)
    assert os.read(fd, 2000)[:6] == ARP[6:12], "it answers"
    os.close(fd)
    for pid in started:
        gone(pid)


def test_without_a_helper_the_mend_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(UserError, match=r"--net: .*passt.*; apt-get install passt"):
        user.start([], None, "--net")


def test_one_pci_device_type_of_many() -> None:
    (kind,) = vmm_device_types()
    assert (kind.key, kind.bus, kind.many) == ("net", "pci", True)
