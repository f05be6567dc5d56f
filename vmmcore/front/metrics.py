# SPDX-License-Identifier: Apache-2.0
"""Metrics of VMs as Prometheus reads them (text exposition format 0.0.4).

The names are built from those of the counters: a device's ``read_bytes`` is ``vmm_device_read_bytes_total``. A counter
starts again at 0 when the guest reboots, for the machine is another then; Prometheus' rate() knows what to do.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    Info = Mapping[str, Any]
    Counters = Mapping[str, Mapping[str, int]]
    #: name, type, help, labels, value
    Sample = tuple[str, str, str, dict[str, str], float]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STATES = ("created", "running", "paused")
#: keys of Vm.info() that are numbers: name, help
_GAUGES = {
    "vcpus": ("vmm_vcpus", "vCPUs that the guest has."),
    "max_vcpus": ("vmm_vcpus_max", "vCPUs that the guest can have."),
    "memory": ("vmm_memory_bytes", "RAM of the guest."),
    "memory_actual": ("vmm_memory_actual_bytes", "RAM of the guest without what its balloon holds."),
    "memory_slots": ("vmm_memory_slots", "KVM memory slots that the VM has taken."),
}
QUEUE = re.compile(r"queue(\d+)_(.+)")
VCPU = re.compile(r"vcpu(\d+)")


def exposition(vms: Iterable[tuple[Info, Counters]]) -> str:
    """The metrics of VMs, each given as what Vm.info() and Vm.counters() return."""
    families: dict[str, list[str]] = {}
    for info, counters in vms:
        for name, kind, text, labels, value in _samples(info, counters):
            lines = families.setdefault(name, [f"# HELP {name} {text}", f"# TYPE {name} {kind}"])
            lines.append(f"{name}{{{_labels(labels)}}} {value}")
    return "".join(line + "\n" for lines in families.values() for line in lines)


def _samples(info: Info, counters: Counters) -> Iterator[Sample]:
    vm = {"vm": str(info["id"])}
    for state in STATES:
        yield "vmm_state", "gauge", "1 for the state of the VM.", {**vm, "state": state}, int(info["state"] == state)
    for key, (name, text) in _GAUGES.items():
        if key in info:
            yield name, "gauge", text, vm, info[key]
    types = {device["id"]: str(device.get("type", "")) for device in info.get("devices", ())}
    for owner, values in counters.items():
        vcpu = VCPU.fullmatch(owner)
        for name, value in values.items():
            if vcpu and owner not in types:
                yield _of_vcpu({**vm, "vcpu": vcpu[1]}, name, value)
            elif owner in types:
                yield _of_device({**vm, "device": owner, "type": types[owner]}, name, value)
            else:
                yield f"vmm_{_name(owner)}_{_name(name)}_total", "counter", f"{name} of {owner}.", vm, value


def _of_vcpu(labels: dict[str, str], name: str, value: int) -> Sample:
    if name == "cpu_ns":
        return "vmm_vcpu_cpu_seconds_total", "counter", "CPU time of the vCPU's thread.", labels, value / 1e9
    if name.startswith("kvm_"):
        what, unit, value_in = name, "", float(value)
        if name.endswith("_ns"):
            what, unit, value_in = name.removesuffix("_ns"), "_seconds", value / 1e9
        return f"vmm_vcpu_{_name(what)}{unit}_total", "counter", f"{name[4:]} of KVM's statistics.", labels, value_in
    return "vmm_vcpu_exits_total", "counter", "Exits to the VMM.", {**labels, "kind": name}, value


def _of_device(labels: dict[str, str], name: str, value: int) -> Sample:
    queue = QUEUE.fullmatch(name)
    if queue is None:
        return f"vmm_device_{_name(name)}_total", "counter", f"{name} of the device.", labels, value
    labels = {**labels, "queue": queue[1]}
    return f"vmm_queue_{_name(queue[2])}_total", "counter", f"{queue[2]} of the virtqueue.", labels, value


def _name(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", text)


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
