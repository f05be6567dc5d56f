# SPDX-License-Identifier: Apache-2.0
"""Whole machines: what the plan says, a bare-metal guest that plugs and uses blocks. tests/lab has Debian's driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from vmm_testkit.baremetal import BareMetal
from vmmcore import Vm, VmConfig
from vmmcore.errors import GuestError, UserError
from vmmcore.front.config import DeviceConfig

needs_kvm = pytest.mark.needs_kvm

MIB = 1 << 20
BOOT, BLOCK = 64 * MIB, 2 * MIB
MEMORY = "64M,hotplug_method=virtio-mem,hotplug_size=1G"
FOREVER = '#include "guest.h"\nint main(struct hvm_start_info *si) { (void)si; for (;;) pause(); }'

GUEST = r"""
#include "virtio.h"
enum { PLUG, UNPLUG, BLOCK = 2 << 20 };
static u8 ring[3 * 4096] __attribute__((aligned(4096)));
static struct virtio dev;
static struct virtq q;

static int ask(u64 type, u64 addr, u64 blocks)
{
    static u64 request[3];
    static u16 answer[5];
    request[0] = type, request[1] = addr, request[2] = blocks;
    struct virtq_piece pieces[] = {{request, sizeof request, 0}, {answer, sizeof answer, 1}};
    CHECK(virtq_request(&q, pieces, 2) == sizeof answer, "answer of type %lu", type);
    return answer[0];
}

int main(struct hvm_start_info *si)
{
    (void)si;
    CHECK(virtio_find(&dev, 24), "no device, %d", 24);
    CHECK(virtio_negotiate(&dev, 2), "features refused, offered %lx", virtio_offered(&dev));
    CHECK(virtq_setup(&dev, &q, 0, 64, ring), "no queue, %d", 0);
    virtio_driver_ok(&dev);
    u64 config[7];
    for (u32 n = 0; n < 14; n++)
        ((u32 *)config)[n] = mmio_read32(dev.config + 4 * n);
    u64 base = config[2], requested = config[6];
    CHECK(config[0] == BLOCK && requested == 64 * BLOCK, "block 0x%lx requested 0x%lx", config[0], requested);
    map(base, 64 * BLOCK, 0);
    CHECK(ask(PLUG, base, 64) == 0, "plug refused, %d", 0);
    CHECK(ask(PLUG, base + 64 * BLOCK, 1) == 1, "more than was asked for, %d", 0);
    for (u64 a = base; a < base + 64 * BLOCK; a += 4096)
        mmio_write64(a, a);
    for (u64 a = base; a < base + 64 * BLOCK; a += 4096)
        CHECK(mmio_read64(a) == a, "0x%lx holds 0x%lx", a, mmio_read64(a));
    CHECK(ask(UNPLUG, base, 4) == 0, "unplug refused, %d", 0);
    CHECK(mmio_read64(base + 4096) == 0, "what is unplugged holds 0x%lx", mmio_read64(base + 4096));
    CHECK(mmio_read64(base + 4 * BLOCK) == base + 4 * BLOCK, "what stays holds 0x%lx", mmio_read64(base + 4 * BLOCK));
    return 0;
}
"""


def config(memory: str = MEMORY, **more: Any) -> VmConfig:
    values = {"kernel": BareMetal(FOREVER).build(), "devices": [DeviceConfig("serial", "null")], **more}
    return VmConfig(memory=memory, **values)


@contextmanager
def machine(memory: str = MEMORY, **more: Any) -> Iterator[Vm]:
    with Vm(config(memory, **more)) as vm:
        vm.boot()
        yield vm


def test_plan_keeps_room_between_ram_and_devices() -> None:
    plan = Vm(config()).plan
    [device] = [device for device in plan["devices"] if device["type"] == "virtio-mem"]
    options = device["options"]
    assert device["id"] == "virtio-mem" and options["region_size"] == 1 << 30 and options["address"] % (128 * MIB) == 0
    assert options["address"] >= sum(plan["memory"]["regions"][-1])
    assert plan["pci"]["segments"][0]["mmio64"][0] >= options["address"] + options["region_size"]
    assert "memory_hotplug" not in plan["platform"] and plan["memory"]["hotplug"]["plugged"] == 0


def test_zones_have_devices_of_their_own_and_nodes() -> None:
    plan = Vm(config("size=0,hotplug_method=virtio-mem", cpus=2, memory_zones=[
        "id=a,size=64M,hotplug_size=256M,shared=on", "id=b,size=64M", "id=c,size=64M,hotplug_size=128M,hotplugged_size=128M"],
        numa=["guest_numa_id=0,cpus=0,memory_zones=[a,b]", "guest_numa_id=1,cpus=1,memory_zones=c"])).plan
    devices = {device["id"]: device["options"] for device in plan["devices"] if device["type"] == "virtio-mem"}
    assert [(name, o["zone"], o["node"], o["requested_size"]) for name, o in devices.items()] == [
        ("virtio-mem-a", "a", 0, 0), ("virtio-mem-c", "c", 1, 128 * MIB)]
    assert devices["virtio-mem-a"]["memory"]["shared"] and not devices["virtio-mem-c"]["memory"]["shared"]
    assert devices["virtio-mem-c"]["address"] == sum(devices["virtio-mem-a"][key] for key in ("address", "region_size"))


def test_device_without_room_for_it() -> None:
    with pytest.raises(UserError, match="--memory hotplug_size=: no room"):
        _ = Vm(config("64M", plugins=["virtio-mem,zone=x"])).plan


@needs_kvm
def test_guest_plugs_uses_and_unplugs_blocks() -> None:
    BareMetal(GUEST).run(memory=f"size={MEMORY},hotplugged_size=128M").check()


@needs_kvm
def test_size_is_asked_for_again_after_a_reboot() -> None:
    with machine() as vm:
        before = vm.info()
        assert before["memory"] == before["memory_actual"] == BOOT
        vm.resize(memory=BOOT + 8 * BLOCK)
        assert vm.info()["memory"] == BOOT, "the guest has plugged nothing"
        vm.reboot()
        vm.info()
        assert vm.call("virtio-mem", "requested") == 8 * BLOCK
        for wanted, words in ((BOOT - BLOCK, "are not 0 to"), (BOOT + 1, "no multiple"), (BOOT + (2 << 30), "not 0 to")):
            with pytest.raises(GuestError, match=words):
                vm.resize(memory=wanted)
        with pytest.raises(GuestError, match="no memory zone"):
            vm.resize_zone("a", BOOT)


@needs_kvm
def test_zones_are_resized_by_name() -> None:
    zones = ["id=a,size=32M,hotplug_size=256M", "id=b,size=32M"]
    with machine("size=0,hotplug_method=virtio-mem", memory_zones=zones) as vm:
        vm.resize_zone("a", 32 * MIB + 4 * BLOCK)
        assert vm.call("virtio-mem-a", "requested") == 4 * BLOCK
        with pytest.raises(GuestError, match="'b' has no room"):
            vm.resize_zone("b", 64 * MIB)
        with pytest.raises(GuestError, match="no memory zone 'x'"):
            vm.resize_zone("x", 64 * MIB)
        with pytest.raises(GuestError, match="in zones; resize one of them"):
            vm.resize(memory=128 * MIB)


@needs_kvm
def test_region_costs_nothing_until_it_is_used() -> None:
    with machine("64M,hotplug_method=virtio-mem,hotplug_size=64G") as vm:
        status = Path(f"/proc/{vm.pid}/status").read_text()
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        assert resident < 200 << 10
        assert os.path.exists(f"/proc/{vm.pid}")
