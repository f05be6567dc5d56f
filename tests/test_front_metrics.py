# SPDX-License-Identifier: Apache-2.0
"""Metrics in Prometheus' text format, read back by Prometheus' own parser where it is installed."""

from __future__ import annotations

import re

import pytest

from vmmcore.front.metrics import CONTENT_TYPE, exposition

INFO = {"id": "web", "state": "running", "vcpus": 2, "max_vcpus": 4, "memory": 1 << 30, "memory_actual": 1 << 29,
        "memory_slots": 3,
        "devices": [{"id": "disk0", "type": "Disk", "state": "activated"}]}
COUNTERS = {
    "disk0": {"read_bytes": 4096, "queue0_requests": 3, "queue1_requests": 5, "odd-name": 1},
    "vcpu0": {"pio": 7, "mmio": 8, "cpu_ns": 1_500_000_000},
    "vcpu1": {"pio": 9, "mmio": 0, "cpu_ns": 0, "kvm_exits": 100, "kvm_halt_wait_ns": 500_000_000},
    "irq": {"route_updates": 2},
}


def test_the_numbers_of_a_vm() -> None:
    lines = exposition([(INFO, COUNTERS)]).splitlines()
    for wanted in (
        'vmm_state{vm="web",state="running"} 1', 'vmm_state{vm="web",state="paused"} 0', 'vmm_vcpus{vm="web"} 2',
        'vmm_vcpus_max{vm="web"} 4', f'vmm_memory_bytes{{vm="web"}} {1 << 30}',
        f'vmm_memory_actual_bytes{{vm="web"}} {1 << 29}', 'vmm_memory_slots{vm="web"} 3',
        'vmm_device_read_bytes_total{vm="web",device="disk0",type="Disk"} 4096',
        'vmm_device_odd_name_total{vm="web",device="disk0",type="Disk"} 1',
        'vmm_queue_requests_total{vm="web",device="disk0",type="Disk",queue="1"} 5',
        'vmm_vcpu_exits_total{vm="web",vcpu="1",kind="pio"} 9', 'vmm_vcpu_cpu_seconds_total{vm="web",vcpu="0"} 1.5',
        'vmm_vcpu_kvm_exits_total{vm="web",vcpu="1"} 100.0',
        'vmm_vcpu_kvm_halt_wait_seconds_total{vm="web",vcpu="1"} 0.5', 'vmm_irq_route_updates_total{vm="web"} 2',
    ):
        assert wanted in lines, wanted


def test_a_family_is_in_one_piece_with_one_head() -> None:
    text = exposition([(INFO, COUNTERS), ({**INFO, "id": "db"}, COUNTERS)])
    heads = re.findall(r"^# TYPE (\S+)", text, re.M)
    assert len(heads) == len(set(heads))
    family = ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            family = line.split()[2]
        elif not line.startswith("#"):
            assert line.partition("{")[0] == family


def test_names_of_users_are_escaped() -> None:
    text = exposition([({**INFO, "id": 'a"b\\c\nd', "devices": []}, {})])
    assert 'vm="a\\"b\\\\c\\nd"' in text


def test_no_vm() -> None:
    assert exposition([]) == ""
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_prometheus_reads_it() -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="needs pip install prometheus-client")
    families = {f.name: f for f in parser.text_string_to_metric_families(exposition([(INFO, COUNTERS)]))}
    assert families["vmm_vcpu_exits"].type == "counter"
    assert sum(s.value for s in families["vmm_vcpu_exits"].samples) == 24
