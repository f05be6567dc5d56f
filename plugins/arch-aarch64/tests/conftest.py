# SPDX-License-Identifier: Apache-2.0
"""A planning context without a planner: collects what the architecture loads."""

from __future__ import annotations

from typing import Any

import pytest
from vmmcore.front.config import VmConfig

from vmm_arch_aarch64 import host
from vmm_arch_aarch64 import layout as layout_module


class Hooks:
    def __init__(self, nodes: list[list[Any]]) -> None:
        self.nodes = nodes

    def vmm_fdt_nodes(self, context: Any) -> list[list[Any]]:
        return self.nodes

    def vmm_acpi_nodes(self, context: Any) -> list[list[bytes]]:
        return []


class Context:
    """What was loaded is in `loads`, by address."""

    def __init__(self, cmdline: str = "console=ttyAMA0", nodes: list[list[Any]] | None = None,
                 devices: list[dict[str, Any]] | None = None, **config: Any) -> None:
        self.config = VmConfig(**config)
        self.layout = layout_module.layout(self.config)
        self.plan: dict[str, Any] = {"devices": devices or []}
        self.hooks = Hooks(nodes or [])
        self.cmdline = cmdline
        self.loads: dict[int, bytes] = {}
        self.claims: list[tuple[int, int]] = []

    def gsi(self, number: int) -> int:
        assert number in self.layout.gsis
        return number

    def mmio(self, base: int, length: int, owner: str) -> None:
        self.claims.append((base, length))

    def device_plan(self, key: str | None = None) -> list[dict[str, Any]]:
        return [device for device in self.plan["devices"] if device["type"] == key]

    def load_bytes(self, gpa: int, data: bytes) -> None:
        self.loads[gpa] = data


@pytest.fixture
def context() -> type[Context]:
    return Context


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results must not depend on the machine that runs the tests, nor on how much RAM it has."""
    monkeypatch.setattr(host, "capabilities", lambda: (48, True))
    monkeypatch.setattr("vmmcore.front.config._meminfo", lambda: (0, 0))
