# SPDX-License-Identifier: Apache-2.0
"""The device in a machine without a CPU, with a driver in Python."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from console_front import Front
from vmm_testkit.virtio import VirtioDriver
from vmmcore.errors import VmmError

from vmm_virtio_console.device import F_MULTIPORT, F_SIZE, Console

pytestmark = pytest.mark.needs_kvm

RX, TX, CONTROL_RX, CONTROL_TX, RX1, TX1 = range(6)
DEVICE_READY, DEVICE_ADD, _, PORT_READY, CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME = range(8)


def say(driver: VirtioDriver, port: int, event: int, value: int) -> None:
    driver.request(CONTROL_TX, out=[struct.pack("<IHH", port, event, value)])


def hear(driver: VirtioDriver) -> tuple[int, int, int, bytes]:
    data = driver.request(CONTROL_RX, in_=[256]).data
    return (*struct.unpack("<IHH", data[:8]), data[8:])


def open_ports(driver: VirtioDriver) -> None:
    """As Linux does it."""
    say(driver, 0xFFFFFFFF, DEVICE_READY, 1)
    for port in range(int.from_bytes(driver.config_bytes(4, 4), "little")):
        assert hear(driver) == (port, DEVICE_ADD, 1, b"")
        say(driver, port, PORT_READY, 1)
        while hear(driver)[1] != PORT_OPEN:
            pass
        say(driver, port, PORT_OPEN, 1)


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(path))
    return client


def meet(driver: VirtioDriver, path: Path) -> socket.socket:
    """A client whom the device knows of: what the driver said before is dropped."""
    client = connect(path)
    client.sendall(b"!")
    assert driver.request(RX, in_=[1]).data == b"!"
    return client


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = client.recv(size - len(data))
        assert part, f"hung up after {len(data)} of {size} bytes"
        data += part
    return data


@contextmanager
def console(text: str) -> Iterator[VirtioDriver]:
    """A machine with the device of ``--console text``."""
    front = Front()
    device = front.add("console", text)
    files = {name: front.fds[index] for name, index in device["files"].items()}
    with VirtioDriver(Console, options=device["options"], files=files, id="console0") as driver:
        yield driver
    front.close()


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """The master of a pty that has no size yet, and the path of its slave."""
    master, slave = os.openpty()
    yield master, os.ttyname(slave)
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("options", ["", ",packed=on"])
def test_file_gets_what_the_guest_says(tmp_path: Path, options: str) -> None:
    lines = [b"line %d\n" % number for number in range(2000)]
    with console(f"file={tmp_path}/log{options}") as driver:
        assert not driver.start() & (F_MULTIPORT | F_SIZE)
        tokens = []
        for number, line in enumerate(lines):
            tokens.append(driver.submit(TX, out=[line[:3], line[3:]]))
            if number % 50 == 49:
                for token in tokens:
                    driver.wait(TX, token)
                tokens.clear()
    assert (tmp_path / "log").read_bytes() == b"".join(lines)


def test_socket_both_ways_over_resets_and_reconnections(tmp_path: Path) -> None:
    with console(f"socket={tmp_path}/s") as driver:
        for _ in range(3):
            client = connect(tmp_path / "s")
            client.sendall(b"in!")
            driver.start()
            assert driver.request(RX, in_=[64]).data == b"in!"
            driver.request(TX, out=[b"out!"])
            assert receive(client, 4) == b"out!"
            driver.start()
            driver.request(TX, out=[b"again"])
            assert receive(client, 5) == b"again"
            client.close()


def test_socket_leaves_with_the_device(tmp_path: Path) -> None:
    with console(f"socket={tmp_path}/s") as driver:
        driver.start()
        assert (tmp_path / "s").is_socket()
        driver.machine.remove_device("console0")
        assert not list(tmp_path.iterdir())


def test_guest_is_held_back_by_a_slow_client_and_loses_nothing(tmp_path: Path) -> None:
    data = bytes(range(256)) * 16
    with console(f"socket={tmp_path}/s") as driver:
        driver.start()
        client = meet(driver, tmp_path / "s")
        driver.request(TX, out=[data])
        tokens = [driver.submit(TX, out=[data * 8]) for _ in range(100)]
        assert receive(client, len(data)) == data
        assert not tokens[-1].done
        for token in tokens:
            assert receive(client, len(data) * 8) == data * 8
            driver.wait(TX, token)
        client.close()
        driver.request(TX, out=[b"nobody"])


def test_named_ports(tmp_path: Path) -> None:
    with console(f"null,ports=[org.example.agent@socket={tmp_path}/s,log@file={tmp_path}/log]") \
            as driver:
        assert driver.start() & F_MULTIPORT
        say(driver, 0xFFFFFFFF, DEVICE_READY, 1)
        assert [hear(driver) for _ in range(3)] == [(port, DEVICE_ADD, 1, b"") for port in range(3)]
        say(driver, 0, PORT_READY, 1)
        assert [hear(driver) for _ in range(2)] == [(0, CONSOLE_PORT, 1, b""), (0, PORT_OPEN, 1, b"")]
        say(driver, 1, PORT_READY, 1)
        assert [hear(driver) for _ in range(2)] == [(1, PORT_NAME, 1, b"org.example.agent"), (1, PORT_OPEN, 0, b"")]
        client = connect(tmp_path / "s")
        assert hear(driver) == (1, PORT_OPEN, 1, b"")
        say(driver, 1, PORT_OPEN, 1)
        client.sendall(b"hello")
        assert driver.request(RX1, in_=[64]).data == b"hello"
        driver.request(TX1, out=[b"hi"])
        assert receive(client, 2) == b"hi"
        driver.request(TX1 + 2, out=[b"logged"])
        client.close()
        assert hear(driver) == (1, PORT_OPEN, 0, b"")
        assert driver.machine.counters()["console0"]["rx_bytes"] == 5
    assert (tmp_path / "log").read_bytes() == b"logged"


@pytest.mark.parametrize("queues", [[0, 1], [0, 1, 2, 3, 4, 5], [0, 1, 3], [1], [0, 2, 3, 5], [4]])
def test_fewer_queues_than_there_are(queues: list[int]) -> None:
    with console("null,ports=[a@null,b@null]") as driver:
        driver.start(queues=queues)
        for queue in queues:
            if queue % 2:
                driver.request(queue, out=[b"12345678"])
        driver.start()
        open_ports(driver)
        driver.request(TX1, out=[b"x"])


def test_size_of_a_terminal_is_in_the_configuration(terminal: tuple[int, str]) -> None:
    master, path = terminal
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    slave = os.open(path, os.O_RDWR | os.O_NOCTTY)
    with VirtioDriver(Console, options={"ports": [{"name": None, "host": "tty"}]},
                      files={"0.in": slave, "0.out": slave}) as driver:
        assert driver.start() & F_SIZE
        assert struct.unpack("<2H", driver.config_bytes(0, 4)) == (80, 24)
        driver.interrupts()
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 50, 132, 0, 0))
        os.kill(os.getpid(), 28)  # the terminal is not this process's own: SIGWINCH by hand
        driver.wait_until(lambda: struct.unpack("<2H", driver.config_bytes(0, 4)) == (132, 50), "the new size")
        assert 0 in driver.interrupts()
    os.close(slave)


@pytest.mark.parametrize(("legacy", "sizes"), [(False, [(80, 24), (81, 24)]), (True, [(24, 80), (24, 81)])])
def test_size_of_a_pty_is_told_by_message_with_several_ports(
        terminal: tuple[int, str], legacy: bool, sizes: list[tuple[int, int]]) -> None:
    master, path = terminal
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    slave = os.open(path, os.O_RDWR | os.O_NOCTTY)
    options = {"ports": [{"name": None, "host": "pty"}, {"name": "a", "host": "null"}], "legacy_size": legacy}
    with VirtioDriver(Console, options=options, files={"0.in": master, "0.out": master}) as driver:
        driver.start()
        say(driver, 0, PORT_READY, 1)
        found = []
        while (message := hear(driver))[1] != PORT_OPEN:
            if message[1] == RESIZE:
                found.append(struct.unpack("<2H", message[3]))
        say(driver, 0, PORT_OPEN, 1)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 81, 0, 0))
        os.write(slave, b"k\n")  # noticed with the next key
        driver.request(RX, in_=[16])
        message = hear(driver)
        assert message[:2] == (0, RESIZE)
        assert [*found, struct.unpack("<2H", message[3])] == sizes
    os.close(slave)


def test_typing_waits_for_the_driver_and_over_a_pause(terminal: tuple[int, str]) -> None:
    import tty

    master, path = terminal
    slave = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(slave)
    text = b"".join(b"%05d\n" % number for number in range(500))
    with VirtioDriver(Console, options={"ports": [{"name": None, "host": "pty"}]},
                      files={"0.in": master, "0.out": master}) as driver:
        os.write(slave, text)
        driver.start()
        got = driver.request(RX, in_=[10]).data
        for number in range(400):
            if number % 40 == 0:
                driver.machine.pause()
                driver.machine.resume()
            if number % 100 == 50:
                driver.start()
            got += driver.request(RX, in_=[1 + number % 20]).data
            if len(got) == len(text):
                break
        assert got == text
    os.close(slave)


def test_state_moves_to_another_console(tmp_path: Path) -> None:
    flag = f"null,ports=[a@socket={tmp_path}/%d]"
    with console(flag % 1) as first:
        first.start()
        open_ports(first)
        first.machine.pause()
        state = first.device.save()
    with console(flag % 2) as second:
        second.reset()
        second.device.restore(state)
        for change in ({"ready": 2}, {"input": bytes(5000)}, {"sent": -1}, {"todo": 99}):
            bad = {**state, "ports": [state["ports"][0], {**state["ports"][1], **change}]}
            with pytest.raises(VmmError, match="saved state is not usable"):
                second.device.restore(bad)
        with pytest.raises(VmmError, match="it has 1 ports"):
            second.device.restore({**state, "ports": state["ports"][:1]})
        second.start()
        assert [hear(second) for _ in range(2)] == [(0, PORT_OPEN, 1, b""), (1, PORT_OPEN, 0, b"")]


@pytest.mark.parametrize("options", ["", ",packed=on"])
def test_reset_of_one_queue_leaves_the_others_alone(tmp_path: Path, options: str) -> None:
    with console(f"null,ports=[a@socket={tmp_path}/s]{options}") as driver:
        driver.start()
        open_ports(driver)
        driver.reset_queue(RX1)
        client = connect(tmp_path / "s")
        assert hear(driver) == (1, PORT_OPEN, 1, b""), "it is still known that the driver wants to hear"
        driver.setup_queue(RX1)
        client.sendall(b"hello")
        assert driver.request(RX1, in_=[10]).data == b"hello", "and that the port is open"
        client.close()


def test_reset_of_a_stuck_queue_begins_with_the_next_request(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4000
    with console(f"socket={tmp_path}/s") as driver:
        driver.start()
        client = meet(driver, tmp_path / "s")
        driver.submit(TX, out=[data])
        got = receive(client, 1000)
        driver.reset_queue(TX)
        driver.setup_queue(TX)
        client.settimeout(0.2)
        while True:
            try:
                got += client.recv(1 << 16)
            except TimeoutError:
                break
        assert data.startswith(got) and len(got) < len(data)
        driver.request(TX, out=[b"next"])
        assert receive(client, 4) == b"next"
        client.close()


def test_two_hundred_resets_under_io(tmp_path: Path) -> None:
    with console(f"pty,ports=[a@socket={tmp_path}/s,b@file={tmp_path}/f]") as driver:
        client = connect(tmp_path / "s")
        client.setblocking(False)
        for number in range(200):
            driver.start(without=F_MULTIPORT if number % 4 == 3 else 0, size=16)
            for queue in driver.queues:
                for _ in range(5):
                    if queue % 2:
                        driver.submit(queue, out=[b"x" * 500])
                    else:
                        driver.submit(queue, in_=[500])
            try:
                client.send(b"y" * 1000)
                client.recv(10000)
            except BlockingIOError:
                pass
        client.close()
        driver.start()
        open_ports(driver)
        driver.request(TX1 + 2, out=[b"the end"])
    assert (tmp_path / "f").read_bytes().endswith(b"the end")
