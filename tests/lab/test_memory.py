# SPDX-License-Identifier: Apache-2.0
"""Guest memory from the host's pool of huge pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vmm_testkit.guest import DebianGuest
from vmm_testkit.kernels import Kernel
from vmm_testkit.lab import in_lab

pytestmark = pytest.mark.linux_guest

POOL = Path("/proc/sys/vm/nr_hugepages")


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """A pool of 130 pages of 2 MiB for the time of a test."""
    if not in_lab():
        pytest.skip("changes the host's memory pools: run it in the lab (pytest --lab)")
    POOL.write_text("130\n")
    yield
    POOL.write_text("0\n")


def free_pages() -> int:
    found = re.search(r"HugePages_Free:\s+(\d+)", Path("/proc/meminfo").read_text())
    assert found
    return int(found[1])


@pytest.mark.usefixtures("huge_pages")
def test_linux_runs_on_huge_pages(kernel_of: Callable[[str], Kernel], initramfs_of: Callable[[str], Path]) -> None:
    assert free_pages() == 130
    with DebianGuest(kernel_of("cloud"), initramfs_of("cloud"), memory="size=256M,hugepages=on,prefault=on",
                     cmdline="reboot=a") as guest:
        assert free_pages() == 2
        assert guest.check("echo $((6 * 7))") == "42\n"
        assert guest.poweroff() == 0
    assert free_pages() == 130
