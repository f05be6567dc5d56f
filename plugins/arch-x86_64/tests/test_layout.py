# SPDX-License-Identifier: Apache-2.0
"""The address space: nothing overlaps, everything fits, and what cannot be laid out says so."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from vmmcore.errors import UserError
from vmmcore.front.config import VmConfig

from vmm_arch_x86_64 import layout as module
from vmm_arch_x86_64.plugin import vmm_arch

GIB = 1 << 30
FIXED = [(0xE8000000, 0x10000000), (0xF8000000, 0x4000), (0xFEC00000, 0x1000), (0xFEE00000, 0x100000)]


def areas(layout: Any) -> list[tuple[int, int]]:
    found = [*layout.ram, *FIXED, tuple(layout.extra["platform_mmio"])]
    found += [tuple(s[key]) for s in layout.segments for key in ("mmio32", "mmio64")]
    return sorted(found)


@pytest.mark.parametrize("segments", [1, 2, 96])
@pytest.mark.parametrize("bits", [40, 46])
@pytest.mark.parametrize("size", [128 << 20, 3 * GIB, 3 * GIB + 4096, 4 * GIB, 300 * GIB])
def test_areas_are_disjoint(size: int, bits: int, segments: int) -> None:
    config = VmConfig(memory={"size": size}, cpus={"max_phys_bits": bits},
                      platform={"num_pci_segments": segments})
    layout = module.layout(config)
    assert sum(n for _, n in layout.ram) == size
    found = areas(layout)
    for (base, length), (following, _) in pairwise(found):
        assert base + length <= following
    assert sum(found[-1]) <= (1 << bits) - 65536
    assert all(s["mmio32"][0] % 4096 == 0 and s["mmio64"][0] % GIB == 0 for s in layout.segments)
    assert [s["ecam"] for s in layout.segments] == [0xE8000000 + (n << 20) for n in range(segments)]
    assert all(s["mmio64"][1] >= GIB for s in layout.segments)


def test_ram_below_and_above_the_hole() -> None:
    layout = module.layout(VmConfig(memory={"size": 5 * GIB}))
    assert layout.ram == [(0, 3 * GIB), (4 * GIB, 2 * GIB)]
    assert layout.low_ram_end == 3 * GIB
    assert layout.segments[0]["mmio64"][0] == 6 * GIB
    assert module.layout(VmConfig(memory="512M")).segments[0]["mmio64"][0] == 4 * GIB


def test_interrupts() -> None:
    layout = module.layout(VmConfig())
    assert layout.pci_gsis == list(range(5, 13))
    assert layout.gsis[0] == 13
    assert not set(layout.gsis) & set(layout.pci_gsis)
    assert 4 in layout.gsis and max(layout.gsis) <= 23


def test_too_much_memory() -> None:
    with pytest.raises(UserError, match="--memory size="):
        module.layout(VmConfig(memory={"size": 1 << 40}, cpus={"max_phys_bits": 40}))


def test_too_few_address_bits() -> None:
    with pytest.raises(UserError, match=r"max_phys_bits=.*at least 36"):
        module.layout(VmConfig(cpus={"max_phys_bits": 32}))


@pytest.mark.parametrize(("text", "bits"), [
    ("processor\t: 0\naddress sizes\t: 40 bits physical, 48 bits virtual\n\nprocessor\t: 1\n", 40),
    ("processor\t: 0\n", 36),
    ("x\naddress sizes\t: many\n", 36),
    (None, 36),
])
def test_host_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, bits: int) -> None:
    monkeypatch.undo()  # the real function
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert module.host_phys_bits(str(path)) == bits


def test_only_for_its_machine() -> None:
    assert vmm_arch("aarch64") is None
    arch = vmm_arch("x86_64")
    assert arch is not None and arch.machine_module == "vmm_arch_x86_64.machine"
