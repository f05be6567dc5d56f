# SPDX-License-Identifier: Apache-2.0
"""A planning context without a planner: collects what the architecture loads."""

from __future__ import annotations

from typing import Any

import pytest
from vmmcore.front.config import VmConfig

from vmm_arch_x86_64 import layout as layout_module


class Hooks:
    def __init__(self, nodes: list[list[bytes]]) -> None:
        self.nodes = nodes

    def vmm_acpi_nodes(self, context: Any) -> list[list[bytes]]:
        return self.nodes


class Context:
    """Guest memory below 1 MiB as the guest finds it, in `memory`."""

    def __init__(self, cmdline: str = "console=ttyS0", nodes: list[list[bytes]] | None = None,
                 serial: bool = True, **config: Any) -> None:
        self.config = VmConfig(**config)
        self.layout = layout_module.layout(self.config)
        self.plan: dict[str, Any] = {}
        self.hooks = Hooks(nodes or [])
        self.cmdline = cmdline
        self.memory = bytearray(1 << 20)
        self.loads: list[tuple[int, int]] = []
        self.claims: list[tuple[int, int]] = []
        self.serial = [{"type": "serial", "resources": {"port": 0x3F8, "gsi": 4}}] if serial else []

    def gsi(self) -> int:
        return int(self.layout.gsis[0])

    def ports(self, base: int, length: int, owner: str) -> None:
        self.claims.append((base, length))

    mmio = ports

    def device_plan(self, key: str | None = None) -> list[dict[str, Any]]:
        return self.serial

    def load_bytes(self, gpa: int, data: bytes) -> None:
        assert gpa + len(data) <= len(self.memory)
        assert not any(gpa < base + size and base < gpa + len(data) for base, size in self.loads), hex(gpa)
        self.loads.append((gpa, len(data)))
        self.memory[gpa:gpa + len(data)] = data


@pytest.fixture
def context() -> type[Context]:
    return Context


@pytest.fixture(autouse=True)
def _host_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results must not depend on the machine that runs the tests, nor on how much RAM it has."""
    monkeypatch.setattr(layout_module, "host_phys_bits", lambda: 48)
    monkeypatch.setattr("vmmcore.front.config._meminfo", lambda: (0, 0))
