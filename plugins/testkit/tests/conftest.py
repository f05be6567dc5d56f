# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def qemu() -> str:
    """Path of QEMU; it emulates the lab, and stands in for a VMM where the kit itself is tested."""
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        pytest.skip("qemu-system-x86_64 is missing: run `apt-get install qemu-system-x86` as root")
    return found


@pytest.fixture(autouse=True)
def _need_busybox(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("busybox") and not shutil.which("busybox"):
        pytest.skip("busybox is missing: run `apt-get install busybox-static` as root")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "busybox: needs the package busybox-static")
