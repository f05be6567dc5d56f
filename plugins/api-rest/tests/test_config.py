# SPDX-License-Identifier: Apache-2.0
"""VmConfig in Cloud Hypervisor's JSON: what becomes of it, and that vm.info gives it back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from vmmcore.errors import UserError, VmmError
from vmmcore.front.config import DeviceConfig, VmConfig

from vmm_api_rest import openapi, schema
from vmm_api_rest.catalog import Catalog
from vmm_api_rest.config import complete, flag_values, from_vm_config, to_vm_config
from vmm_api_rest.errors import NotServed, status_of

MIB = 1 << 20
PAYLOAD = {"payload": {"kernel": "/boot/vmlinuz"}}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog((), True)


@pytest.fixture(scope="module")
def components(catalog: Catalog) -> Any:
    return openapi.schemas(catalog)


def through(given: Any, catalog: Catalog, components: Any) -> tuple[Any, VmConfig]:
    """As a request goes: checked, completed, turned into a configuration; and what comes out fits the schema."""
    schema.check(given, schema.ref("VmConfig"), "", components)
    config = complete(given, catalog)
    schema.check(config, schema.ref("VmConfig"), "", components)
    assert complete(config, catalog) == config
    return config, to_vm_config(config, VmConfig(), catalog, {})


def device(config: VmConfig, key: str) -> dict[str, Any]:
    (found,) = [one for one in config.devices if one.type == key]
    assert isinstance(found.options, dict)
    return found.options


def test_all_that_is_not_a_device(catalog: Catalog, components: Any) -> None:
    given = {
        "payload": {"kernel": "/k", "initramfs": "/i", "cmdline": "console=ttyS0"},
        "cpus": {"boot_vcpus": 2, "max_vcpus": 4, "nested": True, "max_phys_bits": 40,
                 "topology": {"threads_per_core": 1, "cores_per_die": 2, "dies_per_package": 1, "packages": 2},
                 "affinity": [{"vcpu": 1, "host_cpus": [0]}], "features": {"amx": False}, "kvm_hyperv": None},
        "memory": {"size": 512 * MIB, "shared": True, "thp": False, "hotplug_method": "VirtioMem",
                   "hotplug_size": None},
    }  # fmt: skip
    shown, config = through(given, catalog, components)
    assert (config.kernel, config.initramfs, config.cmdline) == ("/k", "/i", "console=ttyS0")
    assert (config.cpus.boot, config.cpus.max, config.cpus.topology) == (2, 4, [1, 2, 1, 2])
    assert (config.cpus.affinity, config.cpus.features, config.cpus.max_phys_bits) == ({1: [0]}, ["nested"], 40)
    assert (config.memory.size, config.memory.shared, config.memory.thp) == (512 * MIB, True, False)
    assert config.memory.hotplug_method == "virtio-mem"
    assert shown["payload"] == given["payload"]
    for part in ("cpus", "memory"):
        wanted = {key: value for key, value in given[part].items() if value is not None}
        assert shown[part] | wanted == shown[part]


def test_zones_and_numa(catalog: Catalog, components: Any) -> None:
    zones = [{"id": name, "size": 256 * MIB} for name in ("a", "b")]
    given = {
        **PAYLOAD, "memory": {"size": 0, "zones": zones}, "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
        "numa": [{"guest_numa_id": 0, "cpus": [0], "memory_zones": ["a"],
                  "distances": [{"destination": 1, "distance": 30}]},
                 {"guest_numa_id": 1, "cpus": [1], "memory_zones": ["b"]}],
        "platform": {"num_pci_segments": 2, "uuid": "12345678-1234-1234-1234-123456789abc", "oem_strings": ["x"]},
        "pci_segments": [{"pci_segment": 1, "mmio32_aperture_weight": 2}],
    }  # fmt: skip
    shown, config = through(given, catalog, components)
    assert config.memory.size == 512 * MIB
    assert [zone.id for zone in config.memory_zones] == ["a", "b"]
    assert config.numa[0].distances == {1: 30}
    assert config.num_pci_segments == 2
    assert shown["memory"]["size"] == 0
    assert shown["numa"][0]["distances"] == given["numa"][0]["distances"]  # type: ignore[index]
    assert shown["platform"]["system_uuid"] == "12345678-1234-1234-1234-123456789abc"


def test_devices_in_their_order(catalog: Catalog, components: Any) -> None:
    limits = {"bandwidth": {"size": 1000, "refill_time": 100, "one_time_burst": 5},
              "ops": {"size": 10, "refill_time": 1000}}  # fmt: skip
    given = {
        **PAYLOAD,
        "net": [{"tap": "tap7", "mac": "02:00:00:00:00:01", "vhost_user": False, "fds": [3], "pci_device_id": 9}],
        "disks": [{"path": "/a.img", "id": "a", "image_type": "Raw", "rate_limiter_config": limits},
                  {"path": "/b.img", "readonly": True, "image_type": "Unknown", "queue_affinity": None}],
        "rng": {"src": "/dev/hwrng"}, "serial": {"mode": "File", "file": "/log"}, "pvpanic": True, "watchdog": False,
        "console": {"mode": "Off"}, "iommu": False, "debug_console": {"mode": "Null", "iobase": 233},
    }  # fmt: skip
    shown, config = through(given, catalog, components)
    kinds = [one.type for one in config.devices]
    assert kinds == ["serial", "debugcon", "console", "disk", "disk", "net", "rng", "pvpanic"]
    first, second = [one.options for one in config.devices if one.type == "disk"]
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["path"], first["id"], first["bw_size"], first["ops_refill_time"]) == ("/a.img", "a", 1000, 1000)
    assert (second["readonly"], second["image_type"]) == (True, "raw")
    assert (device(config, "net")["tap"], device(config, "net")["slot"]) == ("tap7", 9)
    assert device(config, "serial") == {"file": "/log"}
    assert device(config, "console")["mode"] == "off"
    assert shown["disks"][0]["rate_limiter_config"] == limits
    assert shown["disks"][1]["image_type"] == "Raw"
    assert shown["net"][0]["pci_device_id"] == 9
    assert shown["serial"] == {"mode": "File", "file": "/log"}
    assert (shown["pvpanic"], shown["watchdog"]) == (True, False)


def test_what_is_there_when_nothing_is_said(catalog: Catalog, components: Any) -> None:
    shown, _ = through(PAYLOAD, catalog, components)
    assert shown["serial"] == {"mode": "Null"}
    assert shown["console"]["mode"] == "Tty"
    assert shown["rng"]["src"] == "/dev/urandom"
    shown, _ = through({**PAYLOAD, "serial": {"mode": "Tty"}}, catalog, components)
    assert "console" not in shown


@pytest.mark.parametrize(("given", "words"), [
    ({}, "payload: missing"),
    ({"payload": {}}, "payload: nothing to boot; give kernel or firmware"),
    ({"payload": {"kernel": 3}}, "payload.kernel: expected string or null, not 3"),
    ({**PAYLOAD, "cpus": {"boot_vcpus": 0}}, "cpus.boot_vcpus: 0 is too small; the least is 1"),
    ({**PAYLOAD, "cpus": {"boot_vcpus": 4, "max_vcpus": 2}}, "max=: 2 is less than boot=4"),
    ({**PAYLOAD, "cpus": {"boot_vcpus": True}}, "cpus.boot_vcpus: expected integer or null, not True"),
    ({**PAYLOAD, "memory": {"size": 5000}}, "4.9K is too small for a guest"),
    ({**PAYLOAD, "memory": {"seize": 1}}, "memory: unknown field 'seize'; did you mean size?"),
    ({**PAYLOAD, "disks": {}}, "disks: expected array or null"),
    ({**PAYLOAD, "disks": [{"path": "/a"}, {}]}, "disks[1].path: missing"),
    ({**PAYLOAD, "disks": [{"path": "/a", "image_type": "raw"}]}, "disks[0].image_type: 'raw' is not one of Raw"),
    ({**PAYLOAD, "disks": [{"path": "/a", "queue_size": 100}]}, "disks[0] queue_size=: 100 is no power of two"),
    ({**PAYLOAD, "serial": {"mode": "File"}}, "serial.file: missing"),
    ({**PAYLOAD, "serial": {"mode": "Tty", "file": "/x"}}, "serial file=: cannot be combined with tty"),
    ({**PAYLOAD, "net": [{"mac": "x"}]}, "net[0] mac=: 'x'"),
    ({**PAYLOAD, "rng": {"src": ""}}, "rng.src: is empty"),
])  # fmt: skip
def test_errors_name_the_field(catalog: Catalog, components: Any, given: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        through(given, catalog, components)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert status_of(caught.value) == 400


@pytest.mark.parametrize("more", [
    {"fs": [{"tag": "t", "socket": "/s"}]}, {"iommu": True}, {"tpm": {"socket": "/s"}}, {"landlock_enable": True},
    {"cpus": {"kvm_hyperv": True}}, {"cpus": {"core_scheduling": "Vcpu"}}, {"memory": {"reserve": True}},
    {"disks": [{"path": "/a", "vhost_user": True}]}, {"disks": [{"path": "/a", "rate_limit_group": "g"}]},
    {"rate_limit_groups": [{"id": "g"}]}, {"gdb": True}, {"pvmemcontrol": {}}, {"ivshmem": {"path": "/x", "size": 1}},
    {"payload": {"kernel": "/k", "fw_cfg_config": {"e820": True}}}, {"platform": {"iommufd_fd": 3}},
    {"platform": {"tdx": True}}, {"payload": {"kernel": "/k", "igvm": "/i"}},
])  # fmt: skip
def test_what_is_left_to_later_plugins(catalog: Catalog, components: Any, more: Any) -> None:
    with pytest.raises(NotServed) as caught:
        through({**PAYLOAD, **more}, catalog, components)
    assert status_of(caught.value) == 501


def test_ids_are_unique(catalog: Catalog, components: Any) -> None:
    with pytest.raises(VmmError, match="'a' is already the id") as caught:
        through({**PAYLOAD, "disks": [{"path": "/a", "id": "a"}], "net": [{"id": "a"}]}, catalog, components)
    assert status_of(caught.value) == 409


def test_flags_become_json_and_the_same_again(catalog: Catalog, components: Any) -> None:
    flags = VmConfig(
        kernel="/k", cpus="boot=2,max=4,topology=1:4:1:1,affinity=[0@[0]]", memory="size=1G,shared=on",
        devices=[DeviceConfig("serial", "tty"), DeviceConfig("net", "tap=tap0,num_queues=4"),
                 DeviceConfig("disk", "path=/a.img,readonly=on,bw_size=1M,bw_refill_time=100"),
                 DeviceConfig("pvpanic", "on"), DeviceConfig("fw-cfg", "name=opt/x,string=y")],
    )  # fmt: skip
    shown = from_vm_config(flags, catalog)
    schema.check(shown, schema.ref("VmConfig"), "", components)
    again = to_vm_config(shown, VmConfig(), catalog, {})
    assert (again.cpus, again.memory, again.kernel) == (flags.cpus, flags.memory, flags.kernel)
    for key in ("serial", "disk", "net", "fw-cfg"):
        kind = catalog.kind(key, key)
        (before,) = [one.options for one in flags.devices if one.type == key]
        assert isinstance(before, str)
        wanted = {name: value for name, value in flag_values(before, kind, key).items() if value not in (None, [], 0)}
        assert wanted.items() <= device(again, key).items()
    assert json.dumps(shown)
