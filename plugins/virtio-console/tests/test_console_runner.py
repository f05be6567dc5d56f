# SPDX-License-Identifier: Apache-2.0
"""`vmm run --console` from the host's side: what is there while the VM runs, and after it."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from vmm_testkit.baremetal import BareMetal
from vmm_testkit.guest import default_vmm
from vmmcore import DeviceConfig, Vm, VmConfig

pytestmark = pytest.mark.needs_kvm

#: says a line on the serial port at each boot; ends, boots again or waits as the line that it reads there asks
GUEST = r"""
#include "guest.h"
static u8 serial_in(void) {
  while (!(inb(0x3f8 + 5) & 1)) pause();
  return inb(0x3f8);
}
int main(struct hvm_start_info *si) {
  (void)si;
  puts("UP\n");
  if (serial_in() == 'r') outb(0x64, 0xfe);
  return 0;
}
"""


@contextmanager
def running(*options: str, stdin: int = subprocess.PIPE, stdout: int = subprocess.PIPE,
            serial: str = "tty") -> Iterator[subprocess.Popen[bytes]]:
    command = [*default_vmm(), "--kernel", str(BareMetal(GUEST).build()), "--memory", "64M", "--serial", serial, *options]
    with subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_up(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"UP\n"


def test_socket_is_there_while_the_vm_runs(tmp_path: Path) -> None:
    with running("--console", f"null,ports=[a@socket={tmp_path}/s]") as process:
        assert process.stdin is not None
        wait_up(process)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == []


def test_socket_stays_over_a_reboot(tmp_path: Path) -> None:
    with running("--console", f"socket={tmp_path}/s") as process:
        assert process.stdin is not None
        wait_up(process)
        process.stdin.write(b"r")
        process.stdin.flush()
        wait_up(process)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
        process.stdin.write(b"q")
        process.stdin.flush()
        assert process.wait(30) == 0
    assert os.listdir(tmp_path) == []


def test_what_a_killed_vm_left_is_replaced(tmp_path: Path) -> None:
    for _ in range(2):
        with running("--console", f"socket={tmp_path}/s") as process:
            wait_up(process)
            process.kill()
            process.wait(30)
        assert os.listdir(tmp_path) == ["s"]


def test_hot_plugged_console_takes_its_socket_along(tmp_path: Path) -> None:
    config = VmConfig(kernel=str(BareMetal(GUEST).build()), memory="64M", devices=[DeviceConfig("serial", "null")])
    with Vm(config) as vm:
        vm.boot()
        for _ in range(3):
            device = vm.add_device("console", f"socket={tmp_path}/s")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
            vm.remove_device(device, force=True)
            assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("signals", [False, True])
def test_terminal_is_put_back(signals: bool) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with running("--console", "tty", stdin=slave, stdout=slave, serial="null") as process:
        until(lambda: termios.tcgetattr(slave)[3] & termios.ICANON == 0)
        if signals:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 128 + signal.SIGTERM
        else:
            os.write(master, b"\x01x")  # Ctrl-A x
            assert process.wait(30) == 0
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def until(condition: Callable[[], bool]) -> None:
    import time

    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never became so")
