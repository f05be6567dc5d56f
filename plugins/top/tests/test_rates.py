# SPDX-License-Identifier: Apache-2.0
"""Rates between two samples, and how they are shown."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from vmm_top.rates import Sample, between
from vmm_top.screen import tables

BEFORE = {"vcpu1": {"pio": 10, "cpu_ns": 1_000_000_000}, "vcpu0": {"pio": 0, "cpu_ns": 0},
          "disk0": {"read_bytes": 1000, "queue0_requests": 5, "queue0_out_bytes": 0}, "irq": {"route_updates": 1}}


def view(after: dict[str, dict[str, int]], seconds: float = 2.0) -> dict[str, Any]:
    return between(Sample(10.0, "Running", BEFORE), Sample(10.0 + seconds, "Running", after))


def test_everything_is_of_one_second() -> None:
    seen = view({"vcpu1": {"pio": 30, "cpu_ns": 2_000_000_000, "kvm_exits": 8}, "vcpu0": {"pio": 4, "cpu_ns": 0},
                 "disk0": {"read_bytes": 5000, "queue0_requests": 9, "queue0_out_bytes": 64},
                 "irq": {"route_updates": 1}})
    assert seen["seconds"] == 2.0
    assert seen["vcpus"] == [{"vcpu": 0, "cpu": 0.0, "exits": {"pio": 2.0}, "kvm": {}},
                             {"vcpu": 1, "cpu": 0.5, "exits": {"pio": 10.0}, "kvm": {"exits": 4.0}}]
    assert seen["queues"] == [{"device": "disk0", "queue": 0, "requests": 2.0, "out_bytes": 32.0}]
    assert seen["devices"] == [{"device": "disk0", "rates": {"read_bytes": 2000.0}},
                               {"device": "irq", "rates": {"route_updates": 0.0}}]


def test_a_reboot_is_no_negative_rate() -> None:
    seen = view({"vcpu0": {"pio": 0, "cpu_ns": 0}, "disk0": {"read_bytes": 500}})
    assert seen["devices"] == [{"device": "disk0", "rates": {"read_bytes": 250.0}}]
    assert [row["vcpu"] for row in seen["vcpus"]] == [0], "a vCPU that is gone is not shown"


def test_a_device_that_came_counts_from_nothing() -> None:
    assert view({"net0": {"rx_bytes": 10}})["devices"] == [{"device": "net0", "rates": {"rx_bytes": 5.0}}]


def test_no_time_between() -> None:
    assert view({"net0": {"rx_bytes": 10}}, 0.0)["devices"][0]["rates"] == {"rx_bytes": 0.0}


def test_tables_fit_a_narrow_terminal() -> None:
    console = Console(width=60, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables("vm.sock", view({
        "vcpu0": {"pio": 4, "mmio": 250_000, "cpu_ns": 1_900_000_000, "kvm_exits": 30_000, "kvm_halt_exits": 18},
        "disk0": {"read_bytes": 3 << 21, "queue0_requests": 9, "queue0_out_bytes": 4 << 20, "queue0_kicks": 5}})))
    text = console.export_text()
    assert "95%" in text
    assert "125.0k" in text
    assert "15.0k" in text
    assert "disk0 0" in text
    assert "read_bytes 3.0M" in text
    assert max(map(len, text.splitlines())) <= 60
