# SPDX-License-Identifier: Apache-2.0
"""From two samples of counters to what happened in each second between them."""

from __future__ import annotations

import re
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_VCPU = re.compile(r"vcpu(\d+)")
_QUEUE = re.compile(r"queue(\d+)_(\w+)")


@dataclass(frozen=True)
class Sample:
    """Counters (owner -> name -> number) at a time (seconds), and the VM's state."""

    time: float
    state: str
    counters: Mapping[str, Mapping[str, int]]


def between(before: Sample, after: Sample) -> dict[str, Any]:
    """Rates in each second, as `vmm top --json` prints them (README.md).

    A counter that is less than it was has started anew, for the guest has rebooted: it counts from 0.
    """
    seconds = after.time - before.time
    view: dict[str, Any] = {"state": after.state, "seconds": seconds, "vcpus": [], "queues": [], "devices": []}
    for owner, values in after.counters.items():
        old = before.counters.get(owner, {})
        rates = {name: _rate(old.get(name, 0), value, seconds) for name, value in values.items()}
        vcpu = _VCPU.fullmatch(owner)
        if vcpu:
            used = rates.pop("cpu_ns", 0.0)
            kvm = {name[4:]: rates.pop(name) for name in list(rates) if name.startswith("kvm_")}
            view["vcpus"].append({"vcpu": int(vcpu[1]), "cpu": used / 1e9, "exits": rates, "kvm": kvm})
        else:
            _device(view, owner, rates)
    view["vcpus"].sort(key=lambda row: row["vcpu"])
    view["queues"].sort(key=lambda row: (row["device"], row["queue"]))
    return view


def _rate(before: int, after: int, seconds: float) -> float:
    return (after - before if after >= before else after) / seconds if seconds > 0 else 0.0


def _device(view: dict[str, Any], device: str, rates: dict[str, float]) -> None:
    queues: dict[int, dict[str, Any]] = {}
    own: dict[str, float] = {}
    for name, rate in rates.items():
        queue = _QUEUE.fullmatch(name)
        if queue is None:
            own[name] = rate
            continue
        number = int(queue[1])
        queues.setdefault(number, {"device": device, "queue": number})[queue[2]] = rate
    view["queues"] += queues.values()
    if own:
        view["devices"].append({"device": device, "rates": own})
