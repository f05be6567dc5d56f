# SPDX-License-Identifier: Apache-2.0
"""Guests for the lab suite: both Debian kernels, and one initramfs each for all of a session's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from vmm_testkit.initramfs import Initramfs
from vmm_testkit.kernels import Kernel, debian_kernel

MODULES = {"cloud-amd64": ["pvpanic-pci"], "amd64": ["pvpanic-pci"]}


@pytest.fixture(scope="session")
def kernel_of() -> Callable[[str], Kernel]:
    """The newest Debian kernel of a flavour."""
    return debian_kernel


@pytest.fixture(scope="session")
def initramfs_of(kernel_of: Callable[[str], Kernel]) -> Callable[[str], Path]:
    """An initramfs with a command loop, lspci and the modules that these tests use."""
    made: dict[str, Path] = {}

    def build(flavour: str) -> Path:
        if flavour not in made:
            kernel = kernel_of(flavour)
            made[flavour] = Initramfs(kernel, modules=MODULES[flavour], programs=["/usr/bin/lspci"],
                                      files={"/usr/share/misc/pci.ids": b"\n"}).build()
        return made[flavour]

    return build
