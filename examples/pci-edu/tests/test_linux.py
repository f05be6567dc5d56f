# SPDX-License-Identifier: Apache-2.0
"""A stock Debian kernel, with a driver in user space (edu_user.c): registers, INTx, DMA."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.guest import DebianGuest

from vmm_pci_edu import device

SOURCE = Path(__file__).with_name("edu_user.c")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    made = tmp_path / "edu-user"
    command = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(made)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\nneeds gcc and libc6-dev"
    return made


def bind(guest: DebianGuest) -> str:
    """Bind the device to uio_pci_generic; its folder in sysfs."""
    guest.check("echo 1234 11e8 > /sys/bus/pci/drivers/uio_pci_generic/new_id")
    return bound(guest)


def bound(guest: DebianGuest) -> str:
    return guest.check("ls -d /sys/bus/pci/drivers/uio_pci_generic/0000:*").strip()


def drive(guest: DebianGuest, folder: str, identification: str) -> None:
    assert guest.check(f"edu-user {folder} /dev/uio0 {identification}", timeout=120).strip() == "ok"


def reload(guest: DebianGuest, outcome: str) -> None:
    """Have `vmm run` take up changed code, and wait for what it says."""
    guest.process.send_signal(signal.SIGUSR1)
    for _ in range(50):
        guest.check("true")  # stderr is read meanwhile
        if outcome in guest.stderr:
            return
    raise AssertionError(guest.stderr)


@pytest.mark.arch("x86_64", reason="the device reaches 28 bits of memory, and AArch64's begins above")
@pytest.mark.linux_guest
def test_driver_in_user_space(debian_guest: Callable[..., DebianGuest], program: Path) -> None:
    # All of its memory is within the 28 bits that the device reaches.
    guest = debian_guest("--plugin", "pci-edu", modules=["uio_pci_generic"], files={"/bin/edu-user": program},
                         memory="size=256M")  # fmt: skip
    drive(guest, bind(guest), "010000ed")
    line = guest.check("grep uio_pci_generic /proc/interrupts")
    assert sum(int(word) for word in line.split()[1:] if word.isdigit()) >= 22
    assert guest.poweroff() == 0


@pytest.mark.arch("x86_64", reason="the device reaches 28 bits of memory, and AArch64's begins above")
@pytest.mark.linux_guest
def test_new_code_while_the_driver_is_bound(
    debian_guest: Callable[..., DebianGuest], program: Path, tmp_path: Path
) -> None:
    source = Path(device.__file__).read_text()
    copy = tmp_path / "edu.py"
    copy.write_text(source)
    guest = debian_guest("--plugin", str(copy), modules=["uio_pci_generic"], files={"/bin/edu-user": program},
                         memory="size=256M")  # fmt: skip
    folder = bind(guest)
    drive(guest, folder, "010000ed")
    copy.write_text(source.replace("0x0100_00ED", "0x0200_00ED").replace("def realize", "def realise"))
    reload(guest, "keeps its old code")
    drive(guest, folder, "010000ed")
    copy.write_text(source.replace("0x0100_00ED", "0x0200_00ED"))
    reload(guest, "edu0: reloaded")
    drive(guest, folder, "020000ed")
    assert bound(guest) == folder
    assert guest.poweroff() == 0
