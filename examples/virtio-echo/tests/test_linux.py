# SPDX-License-Identifier: Apache-2.0
"""A stock Debian kernel, with a driver in user space (echo_user.c)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.guest import DebianGuest

SOURCE = Path(__file__).with_name("echo_user.c")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    made = tmp_path / "echo-user"
    command = ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(made)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\nneeds gcc and libc6-dev"
    return made


@pytest.mark.linux_guest
@pytest.mark.parametrize("native", ["on", "off"])
def test_driver_in_user_space(debian_guest: Callable[..., DebianGuest], program: Path, native: str) -> None:
    guest = debian_guest("--plugin", f"virtio-echo,native={native}", modules=["uio_pci_generic"],
                         files={"/bin/echo-user": program})  # fmt: skip
    guest.check("echo 1af4 107f > /sys/bus/pci/drivers/uio_pci_generic/new_id")
    folder = guest.check("ls -d /sys/bus/pci/drivers/uio_pci_generic/0000:*").strip()
    assert guest.check(f"echo-user {folder} /dev/uio0", timeout=120).strip() == "ok"
    assert guest.poweroff() == 0
