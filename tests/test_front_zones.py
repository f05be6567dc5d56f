# SPDX-License-Identifier: Apache-2.0
"""Memory zones, NUMA nodes, PCI segments, memory that comes later: what is accepted, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vmmcore.errors import UserError
from vmmcore.front import zones
from vmmcore.front.cli.machine import config_from, read_plainly
from vmmcore.front.config import VmConfig
from vmmcore.front.context import place_hotplug, share

MIB, GIB = 1 << 20, 1 << 30
TWO = ["id=a,size=1G", "id=b,size=5G"]
NODES = ["guest_numa_id=0,cpus=[0,1],distances=[1@30],memory_zones=a",
         "guest_numa_id=1,cpus=[2,3],memory_zones=[b],pci_segments=[1]"]


@pytest.fixture(autouse=True)
def _big_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmmcore.front.config._meminfo", lambda: (0, 0))


def config(**more: Any) -> VmConfig:
    return VmConfig(**{"cpus": 4, "memory_zones": TWO, **more})


def test_zones_are_the_ram() -> None:
    assert config().memory.size == 6 * GIB
    assert config(memory="size=0").memory.size == config(memory=0).memory.size == 6 * GIB
    assert config(memory={"hotplug_method": "VirtioMem"}).memory.hotplug_method == "virtio-mem"
    places = zones.cut([(0, 3 * GIB), (4 * GIB, 3 * GIB)], config().memory_zones)
    assert places == {"a": [[0, GIB]], "b": [[GIB, 2 * GIB], [4 * GIB, 3 * GIB]]}


def test_nodes_and_distances() -> None:
    made = config(numa=NODES, platform="num_pci_segments=2")
    assert zones.nodes(made) == {"cpus": {0: 0, 1: 0, 2: 1, 3: 1}, "memory_zones": {"a": 0, "b": 1},
                                 "pci_segments": {1: 1}}
    assert zones.distances(made) == [[10, 30], [30, 10]]
    said = [{"guest_numa_id": 0, "cpus": [0, 1, 2, 3], "memory_zones": ["a"],
             "distances": [{"destination": 2, "distance": 40}]},
            {"guest_numa_id": 2, "memory_zones": ["b"], "distances": {"0": 50}}]
    assert zones.distances(config(numa=said)) == [[10, 20, 40], [20, 10, 20], [50, 20, 10]]


def test_weights_of_segments() -> None:
    made = VmConfig(platform="num_pci_segments=3", pci_segments=["pci_segment=1,mmio64_aperture_weight=2"])
    assert made.segment_weights("mmio32") == [1, 1, 1]
    assert made.segment_weights("mmio64") == [1, 2, 1]
    assert VmConfig().segment_weights("mmio32") == [1]
    assert share(0x1000, 0x9000, [1, 2, 1], 0x1000) == [[0x1000, 0x2000], [0x3000, 0x4000], [0x7000, 0x2000]]


def test_room_for_what_comes_later() -> None:
    assert VmConfig(memory="512M,hotplug_size=2G").hotplug_room == [("", 2 * GIB, 128 * MIB)]
    assert VmConfig().hotplug_room == []
    grows = config(memory="hotplug_method=virtio-mem", memory_zones=["id=a,size=1G,hotplug_size=1G", "id=b,size=1G"])
    assert grows.hotplug_room == [("a", GIB, 128 * MIB)]
    places, end = place_hotplug(4 * GIB + 4096, [("a", GIB, 128 * MIB), ("b", 128 * MIB, GIB)])
    assert places == {"a": (4 * GIB + 128 * MIB, GIB), "b": (6 * GIB, 128 * MIB)}
    assert end == 6 * GIB + 128 * MIB


@pytest.mark.parametrize(("given", "words"), [
    ({"memory": "512M"}, "--memory size=: the RAM is that of the memory zones; write size=0"),
    ({"memory": "size=0,hotplug_size=1G"}, "--memory hotplug_size=: has no zone"),
    ({"memory_zones": ["id=a,size=1G,hotplug_size=1G"]}, "zones grow by virtio-mem only; add --memory"),
    ({"memory_zones": ["id=a,size=1G", "id=a,size=1G"]}, "--memory-zone id=: 'a' is given twice"),
    ({"memory_zones": ["id=a,size=0"]}, "--memory-zone size=: a zone of 0 bytes"),
    ({"memory_zones": ["size=1G"]}, "--memory-zone id=: missing"),
    ({"memory_zones": ["id=a/b,size=1G"]}, "--memory-zone id=: 'a/b' cannot be an id"),
    ({"memory_zones": ["id=a,size=1000"]}, "--memory-zone size=: 1000 is not a multiple of the page size"),
    ({"memory_zones": ["id=a,size=1G,host_numa_node=999"]}, "--memory-zone host_numa_node=: this host has no"),
    ({"memory_zones": ["id=a,size=1G,sise=1"]}, "--memory-zone: unknown key 'sise'; did you mean size"),
    ({"memory_zones": [], "memory": "512M,hotplug_size=1000M"}, "--memory hotplug_size=: .* multiple of 128M"),
    ({"memory_zones": [], "memory": "512M,hotplugged_size=1G"}, "--memory hotplugged_size=: 1G is more than"),
    ({"memory_zones": [], "memory": "512M,hotplug_method=magic"}, "--memory hotplug_method=: 'magic' is neither"),
    ({"cpus": 2, "memory_zones": [], "numa": NODES[:1]}, "--numa memory_zones=: there is no memory zone a"),
    ({"numa": NODES}, "--numa pci_segments=: there is no PCI segment 1"),
    ({"numa": NODES[:1]}, "--numa cpus=: vCPU 2 is in no node"),
    ({"numa": [NODES[0], "guest_numa_id=1,cpus=[2,3]"]}, "--numa memory_zones=: memory zone b is in no node"),
    ({"numa": [NODES[0], "guest_numa_id=1,cpus=[1,2,3],memory_zones=b"]}, "--numa cpus=: '1' is given twice"),
    ({"numa": [NODES[0], "guest_numa_id=1,cpus=[2-9],memory_zones=b"]}, "--numa cpus=: there is no vCPU 4"),
    ({"numa": ["guest_numa_id=0,distances=[1@5]"]}, "--numa distances=: 1@5"),
    ({"numa": ["guest_numa_id=0,distances=[1@20@30]"]}, "--numa distances="),
    ({"numa": ["guest_numa_id=0,cpus=[0-3],memory_zones=[a,b],distances=[7@20]"]}, "there is no node 7"),
    ({"platform": "num_pci_segments=97"}, "--platform num_pci_segments=: 97 is too large"),
    ({"platform": "uuid=12"}, "--platform uuid=: '12' is no UUID"),
    ({"pci_segments": ["pci_segment=1"]}, "--pci-segment pci_segment=: there is no PCI segment 1; raise --platform"),
    ({"pci_segments": ["pci_segment=0,mmio32_aperture_weight=0"]}, "mmio32_aperture_weight=: 0 is too small"),
])
def test_what_cannot_be_is_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        config(**given)


def test_flags_and_files_say_the_same(tmp_path: Path) -> None:
    args = ["--kernel", "k", "--cpus", "4", "--memory", "size=0,thp=off", "--memory-zone", *TWO, "--numa", *NODES,
            "--platform", "num_pci_segments=2", "--pci-segment", "pci_segment=1,mmio32_aperture_weight=3"]
    plain = read_plainly(args)
    assert plain is not None
    flags = config_from(*plain)
    (tmp_path / "vm.toml").write_text(f"""
kernel = "k"
cpus = 4
numa = {NODES!r}
platform = {{num_pci_segments = 2}}
[memory]
size = 0
thp = false
[[memory_zones]]
id = "a"
size = "1G"
[[memory_zones]]
id = "b"
size = "5G"
[[pci_segments]]
pci_segment = 1
mmio32_aperture_weight = 3
""")
    file = VmConfig.from_file(tmp_path / "vm.toml")
    for key in VmConfig.PARTS:
        assert getattr(flags, key) == getattr(file, key), key
    over = read_plainly(["--config", str(tmp_path / "vm.toml"), "--memory-zone", "id=c,size=1G", "--memory", "size=0",
                         "--numa", "guest_numa_id=0,cpus=[0-3],memory_zones=c,pci_segments=[0,1]"])
    assert over is not None
    assert [zone.id for zone in config_from(*over).memory_zones] == ["c"]
