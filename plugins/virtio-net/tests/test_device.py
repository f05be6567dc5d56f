# SPDX-License-Identifier: Apache-2.0
"""The device on a real TAP, with a driver in Python (vmm_testkit.virtio): no vCPU, everything else as in a VM."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Wire, frame_for
from vmm_testkit.virtio import VirtioDriver, VirtioError
from vmmcore.errors import UserError, VmmError
from vmmcore.virtio import F_EVENT_IDX, F_RING_PACKED

from vmm_virtio_net import control as c
from vmm_virtio_net.device import VirtioNet

pytestmark = pytest.mark.needs_kvm

HEADER = 12
BROADCAST = b"\xff" * 6
OK, ERR = b"\0", b"\1"
Start = Callable[..., tuple[VirtioDriver, Wire]]


@pytest.fixture
def start(tap_name: str) -> Iterator[Start]:
    """Make the device that `--net tap=…,TEXT` says, and a wire on its TAP."""
    made: list[Any] = []

    def make(text: str = "", **how: Any) -> tuple[VirtioDriver, Wire]:
        driver = VirtioDriver.flag("--net", f"tap={tap_name}" + (f",{text}" if text else ""))
        made.append(driver)
        driver.start(**how)
        wire = Wire(tap_name)
        made.append(wire)
        return driver, wire

    yield make
    for thing in reversed(made):
        thing.close()


def mac_of(driver: VirtioDriver) -> bytes:
    return bytes(driver.config_bytes(0, 6))


def send(driver: VirtioDriver, frame: bytes, queue: int = 1, header: bytes = bytes(HEADER)) -> None:
    driver.request(queue, out=[header + frame])


class Receiver:
    """Buffers in a receive queue; gives frames of our own EtherType."""

    def __init__(self, driver: VirtioDriver, queue: int = 0, count: int = 32, size: int = 2048) -> None:
        self.driver, self.queue, self.size = driver, queue, size
        self.tokens = [driver.submit(queue, in_=[size]) for _ in range(count)]
        self.buffers: list[bytes] = []  # what came, not yet looked at

    def _next(self, timeout: float = 5) -> bytes:
        """The next buffer. All that are ready are read before one is used again."""
        if not self.buffers:
            self.driver.wait(self.queue, self.tokens[0], timeout)
            ready = 0
            while ready < len(self.tokens) and self.tokens[ready].done:
                self.buffers.append(self.driver.wait(self.queue, self.tokens[ready]).data)
                ready += 1
            del self.tokens[:ready]
            self.tokens += [self.driver.submit(self.queue, in_=[self.size]) for _ in range(ready)]
        return self.buffers.pop(0)

    def frame(self, timeout: float = 5) -> tuple[bytes, bytes]:
        """The header and the next frame, in as many buffers as the header says."""
        while True:
            data = self._next(timeout)
            header, data = data[:HEADER], data[HEADER:]
            buffers = int.from_bytes(header[10:], "little")
            assert buffers >= 1
            data += b"".join(self._next() for _ in range(buffers - 1))
            if data[12:14] == b"\x88\xb5":
                return header, data

    def until(self, payload: bytes) -> None:
        """Frames up to one with this payload."""
        while self.frame()[1][14:] != payload:
            pass


def command(driver: VirtioDriver, kind: int, number: int, data: bytes = b"", queue: int = 2) -> bytes:
    return driver.request(queue, out=[bytes((kind, number)), data] if data else [bytes((kind, number))], in_=[1]).data


# --- frames --------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "without"), [("", 0), ("", F_EVENT_IDX), ("", c.MRG_RXBUF), ("packed=on", 0),
                                               ("packed=on", F_EVENT_IDX)])
def test_frames_pass_both_ways(start: Start, text: str, without: int) -> None:
    driver, wire = start(text, without=without)
    assert bool(driver.features & F_RING_PACKED) == bool(text)
    receiver = Receiver(driver)
    for n in range(100):
        there, back = frame_for(BROADCAST, b"there %d " % n + bytes(n * 10)), frame_for(mac_of(driver), b"back %d" % n)
        send(driver, there)
        assert wire.receive() == there
        wire.send(back)
        _, got = receiver.frame()
        assert got == back
    counters = driver.machine.counters()["net0"]
    assert counters["tx_frames"] >= 100 and counters["rx_frames"] >= 100
    assert counters["tx_bytes"] >= sum(14 + len(b"there %d " % n) + n * 10 for n in range(100))
    assert counters["rx_dropped"] == counters["tx_dropped"] == 0


@pytest.mark.parametrize("text", ["mtu=9000", "mtu=9000,packed=on"])
def test_long_frames_take_several_buffers(start: Start, text: str) -> None:
    driver, wire = start(text)
    receiver = Receiver(driver, count=40, size=512)
    for n in range(40):
        frame = frame_for(mac_of(driver), os.urandom(100 + n * 200))
        wire.send(frame)
        assert receiver.frame()[1] == frame
    assert driver.config_read(10, 2) == 9000


def test_a_checksum_left_to_the_host_is_not_missed(start: Start) -> None:
    driver, _ = start("ip=10.213.10.1,mask=24,host_mac=52:54:00:99:00:01")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("10.213.10.1", 0))
        listener.settimeout(5)
        port: int = listener.getsockname()[1]

        def udp(payload: bytes) -> bytes:
            """A datagram with a wrong checksum."""
            ip = bytes.fromhex("4500") + (28 + len(payload)).to_bytes(2, "big") + bytes.fromhex("000000004011")
            addresses = bytes((10, 213, 10, 2, 10, 213, 10, 1))
            total = sum(int.from_bytes((ip + addresses)[n:n + 2], "big") for n in range(0, 18, 2))
            ip += (~(total % 0xFFFF) & 0xFFFF).to_bytes(2, "big") + addresses
            head = (4000).to_bytes(2, "big") + port.to_bytes(2, "big") + (8 + len(payload)).to_bytes(2, "big")
            return bytes.fromhex("525400990001") + mac_of(driver) + b"\x08\0" + ip + head + b"\x12\x34" + payload

        needs_csum = b"\1" + bytes(5) + (34).to_bytes(2, "little") + (6).to_bytes(2, "little") + bytes(2)
        send(driver, udp(b"wrong"))
        send(driver, udp(b"left to the host"), header=needs_csum)
        assert listener.recv(100) == b"left to the host"


def test_a_burst_is_not_lost(start: Start) -> None:
    driver, wire = start()
    receiver = Receiver(driver, count=16)
    frames = [frame_for(mac_of(driver), b"burst %d" % n) for n in range(300)]
    for frame in frames:
        wire.send(frame)
    assert [receiver.frame()[1] for _ in frames] == frames


def test_headers_that_the_host_refuses_do_no_harm(start: Start) -> None:
    driver, wire = start()
    before = driver.machine.counters()["net0"]["tx_dropped"]
    frame = frame_for(BROADCAST, b"x" * 60)
    for header in (b"\x01\xff" * 6, b"\x00\x01" + bytes(10), b"\xff" * 12, b"\x01\x00" + b"\xff" * 10):
        send(driver, frame, header=header)
    driver.request(1, out=[bytes(5)])
    driver.request(1, out=[bytes(12)])
    driver.request(1, in_=[100])
    send(driver, frame)
    received = [wire.receive()]
    while len(received) < 6 and received[-1] != frame:
        received.append(wire.receive())
    assert frame in received
    assert driver.machine.counters()["net0"]["tx_dropped"] >= before + 5


def test_a_receive_buffer_that_is_none_asks_for_a_reset(start: Start) -> None:
    driver, wire = start()
    driver.submit(0, out=[b"not for writing"])
    wire.send(frame_for(mac_of(driver), b"x"))
    driver.wait_until(lambda: bool(driver.status & 64), "NEEDS_RESET")
    driver.start()
    receiver = Receiver(driver)
    wire.send(frame_for(mac_of(driver), b"again"))
    receiver.until(b"again")


# --- resets and queues -----------------------------------------------------------------------


def test_200_resets_under_traffic(start: Start) -> None:
    driver, wire = start("num_queues=4")
    mac = mac_of(driver)
    for n in range(200):
        driver.start(without=(0, c.MRG_RXBUF, F_EVENT_IDX, c.MQ)[n % 4], size=(256, 64, 16)[n % 3])
        for _ in range(10):
            driver.submit(0, in_=[2048])
            driver.submit(1, out=[bytes(HEADER) + frame_for(BROADCAST, b"reset")])
            wire.send(frame_for(mac, b"flood"))
    driver.start()
    wire.close()
    wire = Wire(driver.device.options["host"]["name"])
    receiver = Receiver(driver)
    send(driver, frame_for(BROADCAST, b"after"))
    while wire.receive()[14:] != b"after":
        pass
    wire.send(frame_for(mac, b"after"))
    receiver.until(b"after")
    wire.close()


def test_fewer_queues_than_offered(start: Start) -> None:
    driver, wire = start("num_queues=8", queues=[0, 1, 8])
    receiver = Receiver(driver)
    send(driver, frame_for(BROADCAST, b"sparse"))
    assert wire.receive()[14:] == b"sparse"
    wire.send(frame_for(mac_of(driver), b"back"))
    assert receiver.frame()[1][14:] == b"back"
    assert command(driver, 4, 0, b"\2\0", queue=8) == ERR, "those queues are not there"
    assert command(driver, 4, 0, b"\1\0", queue=8) == OK


def test_without_mq_the_control_queue_is_the_third(start: Start) -> None:
    driver, _ = start("num_queues=8", without=c.MQ, queues=[0, 1, 2])
    assert command(driver, 0, 0, b"\1") == OK
    assert command(driver, 4, 0, b"\1\0") == ERR


def send_flows(sender: socket.socket, mac: bytes) -> None:
    """64 UDP packets of different ports: by these a TAP chooses the queue."""
    for n in range(64):
        ip = bytes.fromhex("4500002a00000000401100000a000001") + bytes((10, 0, 0, 2))
        udp = (1000 + n * 7).to_bytes(2, "big") + (2000 + n).to_bytes(2, "big") + (22).to_bytes(2, "big") + bytes(2)
        sender.send(mac + b"\x02\0\0\0\0\1\x08\0" + ip + udp + b"flow %03d payload" % n)


def flows(driver: VirtioDriver, wire: Wire, receivers: list[Receiver]) -> set[int]:
    """The queues that frames of many flows come to."""
    seen: set[int] = set()
    driver.settle()
    name = wire.socket.getsockname()[0]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:  # without a protocol: the frame's own counts
        sender.bind((name, 0))
        send_flows(sender, mac_of(driver))
    deadline = time.monotonic() + 5
    arrived = 0
    while arrived < 64 and time.monotonic() < deadline:
        driver.pump(0.01)
        for receiver in receivers:
            for token in driver.collect(receiver.queue):
                data = b"".join(driver.memory.read(at, size) for at, size, _ in token.pieces)
                if b"flow " in data[:80]:
                    seen.add(receiver.queue)
                    arrived += 1
    assert arrived == 64, "no frame is lost in a queue that nobody reads"
    return seen


def test_frames_go_to_the_pairs_that_the_driver_enabled(start: Start) -> None:
    driver, wire = start("num_queues=8")
    receivers = [Receiver(driver, queue=2 * n, count=200, size=256) for n in range(4)]
    assert flows(driver, wire, receivers) == {0}
    driver.start()
    assert command(driver, 4, 0, b"\4\0", queue=8) == OK
    receivers = [Receiver(driver, queue=2 * n, count=200, size=256) for n in range(4)]
    assert len(flows(driver, wire, receivers)) >= 3
    driver.start()
    receivers = [Receiver(driver, queue=2 * n, count=200, size=256) for n in range(4)]
    assert command(driver, 4, 0, b"\4\0", queue=8) == OK
    assert command(driver, 4, 0, b"\2\0", queue=8) == OK
    assert flows(driver, wire, receivers) <= {0, 2}
    for pair in range(4):  # and every pair may send
        send(driver, frame_for(BROADCAST, b"pair %d" % pair), queue=2 * pair + 1)
    assert {wire.receive()[14:] for _ in range(2)} == {b"pair 0", b"pair 1"}


def test_pause_keeps_pairs_and_buffers(start: Start) -> None:
    driver, wire = start("num_queues=4")
    receiver = Receiver(driver)
    assert command(driver, 4, 0, b"\2\0", queue=4) == OK
    assert command(driver, 1, 1, b"\x52\x54\0\0\0\x77", queue=4) == OK
    device: Any = driver.device
    device._enter("paused")
    wire.send(frame_for(mac_of(driver), b"while paused"))
    state = device._save()
    device._enter("activated")
    assert receiver.frame()[1][14:] == b"while paused"
    assert device.control.pairs == 2 and mac_of(driver) == b"\x52\x54\0\0\0\x77"
    with pytest.raises(VmmError, match="net0: saved state"):
        device.restore({**state["device"], "pairs": 9})
    driver.start()
    assert device.control.pairs == 1, "a reset starts anew"
    assert mac_of(driver) != b"\x52\x54\0\0\0\x77"


# --- control queue ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "number", "data", "answer"), [
    (0, 0, b"\1", OK), (0, 1, b"\0", OK), (0, 5, b"\1", OK), (0, 6, b"\1", ERR), (0, 0, b"", ERR), (0, 0, b"\2", ERR),
    (0, 0, b"\1\1", ERR),
    (1, 0, bytes(8), OK), (1, 0, b"\1\0\0\0" + bytes(6) + bytes(4), OK), (1, 0, b"\xff\xff\xff\xff" + bytes(10), ERR),
    (1, 0, bytes(7), ERR), (1, 0, bytes(9), ERR), (1, 0, b"", ERR), (1, 1, bytes(5), ERR), (1, 1, bytes(7), ERR),
    (1, 2, bytes(6), ERR),
    (2, 0, b"\5\0", OK), (2, 1, b"\5\0", OK), (2, 0, b"\0\x10", ERR), (2, 0, b"\5", ERR), (2, 2, b"\5\0", ERR),
    (3, 0, b"", OK), (3, 1, b"", ERR), (3, 0, b"x", ERR),
    (4, 0, b"\1\0", ERR),  # MQ is not offered with one pair
    (5, 0, bytes(8), OK), (5, 0, b"\2" + bytes(7), OK), (5, 0, b"\x02\x02" + bytes(6), OK),  # ECN without TSO
    (5, 0, b"\2" + bytes(5) + b"\x40\0", OK),  # USO for IPv4 alone
    (5, 0, b"\x80" + bytes(7), ERR), (5, 0, b"\xff" * 8, ERR),
    (5, 0, bytes(4), ERR), (5, 1, bytes(8), ERR), (6, 0, b"", ERR), (255, 255, bytes(5000), ERR),
])
def test_commands_and_what_only_looks_like_one(start: Start, kind: int, number: int, data: bytes, answer: bytes) -> None:
    driver, _ = start()
    if kind == 5 and int.from_bytes(data, "little") & ~driver.offered:
        answer = ERR  # an older kernel's TAP: without USO
    assert command(driver, kind, number, data) == answer


def test_commands_in_odd_pieces(start: Start) -> None:
    driver, _ = start()
    assert driver.request(2, out=[b"\0"], in_=[1]).data == ERR
    assert driver.request(2, in_=[1]).data == ERR
    assert driver.request(2, out=[b"\0\0\1"]).length == 0, "no room for an answer"
    assert driver.request(2, out=[b"\0", b"\0", b"\1"], in_=[1, 5]).data == OK
    assert driver.request(2, out=[b"\1\0" + b"\xff" * 70000], in_=[1]).data == ERR


def test_the_filter_is_the_taps(start: Start) -> None:
    driver, wire = start()
    mine, other = mac_of(driver), b"\x52\x54\0\xff\xff\xff"
    receiver = Receiver(driver)
    wire.send(frame_for(other, b"before"))
    assert receiver.frame()[1][14:] == b"before", "nothing is left out until the driver asks"
    assert command(driver, 0, 0, b"\0") == OK
    assert command(driver, 1, 0, bytes(8)) == OK
    wire.send(frame_for(other, b"not mine"))
    wire.send(frame_for(BROADCAST, b"all"))
    assert receiver.frame()[1][14:] == b"all"
    assert command(driver, 1, 1, other) == OK
    wire.send(frame_for(mine, b"no longer mine"))
    wire.send(frame_for(other, b"mine now"))
    assert receiver.frame()[1][14:] == b"mine now"
    assert command(driver, 0, 0, b"\1") == OK
    wire.send(frame_for(b"\x52\x54\0\1\1\1", b"promiscuous"))
    assert receiver.frame()[1][14:] == b"promiscuous"


@pytest.mark.parametrize("chosen", [c.GUEST_TSO4, c.HOST_TSO4, c.GUEST_CSUM | c.GUEST_ECN, c.CSUM | c.HOST_ECN,
                                    c.CTRL_RX, c.CTRL_MAC_ADDR, c.GUEST_ANNOUNCE, c.CTRL_GUEST_OFFLOADS])
def test_features_that_lack_what_they_need_are_refused(start: Start, chosen: int) -> None:
    driver, _ = start()
    driver.reset()
    with pytest.raises(VirtioError, match="FEATURES_OK"):
        driver.negotiate(1 << 32 | chosen)
    driver.start(1 << 32 | c.GUEST_CSUM | c.GUEST_TSO4 | c.GUEST_ECN)


def test_offers_follow_the_options(start: Start) -> None:
    driver, _ = start("offload_tso=off,offload_ufo=off")
    assert driver.offered & c.CSUM and not driver.offered & (c.HOST_TSO4 | c.GUEST_TSO6 | c.HOST_UFO | c.HOST_USO | c.MQ)
    assert not driver.offered & c.MTU
    driver.close()
    other = VirtioDriver.flag("--net", "tap,offload_csum=off,mtu=1400,num_queues=4")
    with other:
        assert not other.offered & (c.CSUM | c.GUEST_CSUM | c.HOST_TSO4)
        assert other.offered & c.MTU and other.offered & c.MQ
        assert other.config_read(8, 2) == 2 and other.config_read(10, 2) == 1400


def test_link_and_announcement(start: Start) -> None:
    driver, _ = start()
    assert driver.config_read(6, 2) == 1
    device: Any = driver.device
    driver.interrupts()
    device.set_link(False)
    assert driver.config_read(6, 2) == 0
    driver.wait_until(lambda: 0 in driver.interrupts(), "a configuration interrupt")
    device.set_link(True)
    device.announce()
    assert driver.config_read(6, 2) == 3
    assert command(driver, 3, 0) == OK
    assert driver.config_read(6, 2) == 1


def test_rate_limit_holds_frames_back_and_loses_none(start: Start) -> None:
    driver, wire = start("ops_size=20,ops_refill_time=50")
    begin = time.monotonic()
    tokens = [driver.submit(1, out=[bytes(HEADER) + frame_for(BROADCAST, b"%d" % n)]) for n in range(60)]
    for token in tokens:
        driver.wait(1, token)
    assert time.monotonic() - begin >= 0.1, "40 frames beyond the bucket take two times 50 ms"
    assert [wire.receive()[14:] for _ in range(60)] == [b"%d" % n for n in range(60)]
    receiver = Receiver(driver, count=64)
    begin = time.monotonic()
    for n in range(60):
        wire.send(frame_for(mac_of(driver), b"%d" % n))
    assert [receiver.frame()[1][14:] for _ in range(60)] == [b"%d" % n for n in range(60)]
    assert time.monotonic() - begin >= 0.05


# --- files ------------------------------------------------------------------------------------------


def test_nothing_is_left_behind(tap_name: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with VirtioDriver.flag("--net", f"tap={tap_name},num_queues=8,ops_size=5,ops_refill_time=5") as driver:
        driver.start()
        driver.start()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_saved_plan_opens_its_tap_itself(tap_name: str) -> None:
    options = {"host": {"kind": "tap", "macvtap": None, "name": tap_name, "ip": None, "mask": None, "mac": None}, "pairs": 2,
               "queue_size": 64, "mtu": None, "vhost": False, "tso": True, "ufo": True, "csum": True, "limit": {},
               "flag": "--net", "mac": "52:54:00:01:02:03"}
    with VirtioDriver(VirtioNet, options=options) as driver:
        driver.start()
        assert Path(f"/sys/class/net/{tap_name}").exists()
        assert mac_of(driver).hex() == "525400010203"
    with pytest.raises(UserError, match=r"--net: a saved plan cannot"):
        VirtioDriver(VirtioNet, options={**options, "host": {"kind": "user"}})


# --- sockets ------------------------------------------------------------------------------------------


ARP_HEAD = bytes.fromhex("0806 0001 0800 06 04 0001")


def arp(mac: bytes, sender: str, target: str) -> bytes:
    return BROADCAST + mac + ARP_HEAD + mac + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)


@pytest.mark.parametrize("helper", ["passt", "libslirp-helper"])
def test_user_mode_answers(helper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    if which(helper) is None:
        pytest.skip(f"no {helper}; apt-get install {helper}")
    monkeypatch.setattr(shutil, "which", lambda name, path=None: which(name) if name == helper else None)
    with VirtioDriver.flag("--net", "user") as driver:
        driver.start()
        receiver = [driver.submit(0, in_=[2048]) for _ in range(16)]
        assert not driver.offered & (c.CSUM | c.HOST_TSO4), "no offloads through a socket"
        mac = mac_of(driver)
        # passt takes the host's addresses: ask for one that cannot be its own
        send(driver, arp(mac, "10.0.2.15", "10.0.2.2"))
        for token in receiver:
            reply = driver.wait(0, token).data
            if reply[HEADER + 12:HEADER + 14] == b"\x08\x06":
                break
        assert reply[:HEADER] == bytes(10) + b"\1\0"
        assert reply[HEADER:HEADER + 6] == mac
        # the same helper serves the next activation
        driver.start()
        receiver = [driver.submit(0, in_=[2048]) for _ in range(16)]
        send(driver, arp(mac, "10.0.2.15", "10.0.2.2"))
        while driver.wait(0, receiver.pop(0)).data[HEADER + 12:HEADER + 14] != b"\x08\x06":
            pass


def test_the_link_goes_down_with_the_helper() -> None:
    ours, theirs = socket.socketpair()
    with VirtioDriver.flag("--net", f"fd=[{ours.detach()}]") as driver:
        driver.start()
        assert driver.config_read(6, 2) == 1
        driver.interrupts()
        theirs.close()
        driver.wait_until(lambda: driver.config_read(6, 2) == 0, "the link going down")
        driver.wait_until(lambda: 0 in driver.interrupts(), "a configuration interrupt")
        driver.request(1, out=[bytes(HEADER) + frame_for(BROADCAST, b"into the void")])


def test_a_stream_of_many_frames_both_ways() -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with theirs, theirs.makefile("rb") as reader, VirtioDriver.flag("--net", f"fd=[{ours.detach()}]") as driver:
        driver.start()
        receiver = Receiver(driver, count=128)
        for n in range(1, 50):
            back = frame_for(mac_of(driver), os.urandom(n * 100))
            theirs.sendall(len(back).to_bytes(4, "big") + back)
            assert receiver.frame()[1] == back
            there = frame_for(BROADCAST, os.urandom(n * 150))
            send(driver, there)
            assert reader.read(int.from_bytes(reader.read(4), "big")) == there
