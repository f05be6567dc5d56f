# SPDX-License-Identifier: Apache-2.0
"""A stock Debian kernel, with a driver in user space (edu_user.c): registers, INTx, DMA."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.guest import DebianGuest

SOURCE = Path(__file__).with_name("edu_user.c")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    made = tmp_path / "edu-user"
    command = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(made)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\nneeds gcc and libc6-dev"
    return made


@pytest.mark.linux_guest
def test_driver_in_user_space(debian_guest: Callable[..., DebianGuest], program: Path) -> None:
    # All of its memory is within the 28 bits that the device reaches.
    guest = debian_guest("--plugin", "pci-edu", modules=["uio_pci_generic"], files={"/bin/edu-user": program},
                         memory="size=256M")  # fmt: skip
    guest.check("echo 1234 11e8 > /sys/bus/pci/drivers/uio_pci_generic/new_id")
    folder = guest.check("ls -d /sys/bus/pci/drivers/uio_pci_generic/0000:*").strip()
    assert guest.check(f"edu-user {folder} /dev/uio0", timeout=120).strip() == "ok"
    line = guest.check("grep uio_pci_generic /proc/interrupts")
    assert sum(int(word) for word in line.split()[1:] if word.isdigit()) >= 22
    assert guest.poweroff() == 0
