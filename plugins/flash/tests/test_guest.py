# SPDX-License-Identifier: Apache-2.0
"""Debian's EDK2 runs to the UEFI shell, and keeps its variables: over a reboot, and in the next VM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vmm_testkit.firmware import CODE, MISSING
from vmm_testkit.guest import DebianGuest, default_vmm

#: one of our own: others have variables with names that are laid down
GUID = "-guid 5c1c2d8e-0e52-4f0b-9a51-3a7d4c6f5b21"
#: seconds until the shell: it tries the network and asks for five seconds whether to go on; the rest is the lab
BOOT = 300.0

pytestmark = [
    pytest.mark.arch("aarch64", reason="the firmware is for AArch64"),
    pytest.mark.linux_guest,
    pytest.mark.skipif(not CODE.exists(), reason=MISSING),
]
#: what the shell shows of a variable with "kept" in it
KEPT = "6B 65 70 74"
Boot = Callable[..., DebianGuest]


@pytest.fixture
def firmware() -> Iterator[Boot]:
    """firmware(options of --firmware, arguments of vmm…) -> a guest that is on its way to the shell"""
    guests = []

    def boot(options: str = "", *args: str) -> DebianGuest:
        argv = [*default_vmm(), "--firmware", f"path={CODE}{options}", "--serial", "tty", "--memory", "256M", *args]
        guest = DebianGuest("", "", argv=argv)
        guests.append(guest)
        return guest.start(wait=False)

    yield boot
    for guest in guests:
        guest.kill()


def shell(guest: DebianGuest) -> None:
    guest.expect(r"UEFI Interactive Shell", BOOT)
    guest.expect(r"Shell> ", BOOT)


def ask(guest: DebianGuest, command: str, answer: str) -> None:
    guest.send(command.encode() + b"\r")
    guest.expect(answer)
    guest.expect(r"Shell> ")


def test_variables_survive(firmware: Boot, tmp_path: Path) -> None:
    options = f",vars={tmp_path / 'vars.fd'}"
    guest = firmware(options)
    shell(guest)
    ask(guest, f'setvar vmm {GUID} -bs -nv =S"kept"', "")
    ask(guest, f"setvar vmm {GUID}", KEPT)
    guest.send(b"reset\r")
    shell(guest)
    ask(guest, f"setvar vmm {GUID}", KEPT)
    guest.send(b"reset -s\r")
    assert guest.wait(60) == 0
    assert b"kept" in (tmp_path / "vars.fd").read_bytes()

    guest = firmware(options)
    shell(guest)
    ask(guest, f"setvar vmm {GUID}", KEPT)
    guest.send(b"reset -s\r")
    assert guest.wait(60) == 0


def test_variables_without_a_file_live_as_long_as_the_vm(firmware: Boot) -> None:
    guest = firmware()
    shell(guest)
    ask(guest, f'setvar vmm {GUID} -bs -nv =S"kept"', "")
    guest.send(b"reset\r")
    shell(guest)
    ask(guest, f"setvar vmm {GUID}", KEPT)
    guest.send(b"reset -s\r")
    assert guest.wait(60) == 0
