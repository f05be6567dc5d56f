# SPDX-License-Identifier: Apache-2.0
"""The address space: nothing overlaps, everything fits, and what cannot be laid out says so."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from vmmcore.errors import UserError
from vmmcore.front.config import VmConfig

from vmm_arch_aarch64 import host
from vmm_arch_aarch64 import layout as module
from vmm_arch_aarch64.plugin import vmm_arch

MIB, GIB = 1 << 20, 1 << 30
#: flash, GIC with ITS for one vCPU, PL011 and so on, ports, ECAM
FIXED = [(0, 128 * MIB), (0x08FB0000, 0x50000), (0x09000000, 0x50000), (0x09050000, 0x10000), (0x30000000, 256 * MIB)]


def laid_out(size: int, **cpus: int) -> Any:
    return module.layout(VmConfig(memory={"size": size}, cpus=cpus))


@pytest.mark.parametrize("segments", [1, 2, 96])
@pytest.mark.parametrize("size", [256 * MIB, 3 * GIB, 3 * GIB + 4096, 4 * GIB, 300 * GIB, 2000 * GIB])
def test_areas_are_disjoint(size: int, segments: int) -> None:
    config = VmConfig(memory={"size": size},
                      platform={"num_pci_segments": segments})
    layout = module.layout(config)
    assert sum(n for _, n in layout.ram) == size
    found = sorted([*layout.ram, *FIXED, *(tuple(s[key]) for s in layout.segments for key in ("mmio32", "mmio64"))])
    for (base, length), (following, _) in pairwise(found):
        assert base + length <= following
    assert sum(found[-1]) <= 1 << layout.extra["phys_bits"]
    assert all(s["mmio32"][0] % 4096 == 0 and s["mmio64"][0] % GIB == 0 for s in layout.segments)
    assert [s["ecam"] for s in layout.segments] == [0x30000000 + (n << 20) for n in range(segments)]


def test_ram_begins_at_one_gib_and_leaves_a_hole_below_four() -> None:
    assert laid_out(256 * MIB).ram == [(0x40000000, 256 * MIB)]
    assert laid_out(3 * GIB).ram == [(0x40000000, 0xBC000000), (4 * GIB, 64 * MIB)]
    assert laid_out(3 * GIB).load_min == 0x40400000


def test_the_address_space_is_as_small_as_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert laid_out(GIB).extra["phys_bits"] == 40
    assert laid_out(1100 * GIB).extra["phys_bits"] == 41
    assert laid_out(GIB, max_phys_bits=36).extra["phys_bits"] == 36
    monkeypatch.setattr(host, "capabilities", lambda: (36, False))
    assert laid_out(GIB).extra["phys_bits"] == 36
    monkeypatch.setattr(host, "capabilities", lambda: (33, False))
    assert laid_out(4 * GIB).segments[0]["mmio64"][1] == 0  # no room: devices are in the 32-bit window
    with pytest.raises(UserError, match="--memory size="):
        laid_out(8 * GIB)


def test_what_does_not_fit_says_so() -> None:
    assert laid_out(GIB, boot=1, max=126)
    with pytest.raises(UserError, match="--cpus max="):
        laid_out(GIB, boot=1, max=127)
    with pytest.raises(UserError, match="--memory size="):
        laid_out(4 * MIB)


def test_it_is_inert_elsewhere() -> None:
    assert vmm_arch("x86_64") is None
    arch = vmm_arch("aarch64")
    assert arch is not None
    assert arch.name == "aarch64"
