# SPDX-License-Identifier: Apache-2.0
"""Rates as tables."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXITS = ("pio", "mmio", "interrupted", "other")
#: of KVM's own numbers, by their names on both architectures
HALTS = ("halt_exits", "wfi_exit_stat", "wfe_exit_stat")
QUEUE = ("requests", "out_bytes", "in_bytes", "kicks", "interrupts")


def tables(name: str, view: dict[str, Any]) -> Group:
    """One screen."""
    parts: list[Any] = [Text(f"{name}: {view['state']}, each second of {view['seconds']:.1f} s", style="bold")]
    vcpus = _table("vCPU", "CPU", "KVM exits", "halts", *(f"{kind} exits" for kind in EXITS))
    for row in view["vcpus"]:
        exits = (_number(row["exits"].get(kind, 0.0)) for kind in EXITS)
        kvm, halts = row["kvm"], sum(row["kvm"].get(name, 0.0) for name in HALTS)
        vcpus.add_row(str(row["vcpu"]), f"{row['cpu']:.0%}", _number(kvm.get("exits", 0.0)), _number(halts), *exits)
    parts.append(vcpus)
    if view["queues"]:
        queues = _table("queue", *(name.replace("_", " ") for name in QUEUE))
        for row in view["queues"]:
            cells = (_bytes(row.get(key, 0.0)) if "bytes" in key else _number(row.get(key, 0.0)) for key in QUEUE)
            queues.add_row(f"{row['device']} {row['queue']}", *cells)
        parts.append(queues)
    if view["devices"]:
        devices = _table("device", "rates")
        devices.columns[1].justify = "left"
        for row in view["devices"]:
            devices.add_row(row["device"], ", ".join(_named(*item) for item in row["rates"].items()))
        parts.append(devices)
    return Group(*parts)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True)
    for header in others:
        table.add_column(header, justify="right")
    return table


def _named(name: str, rate: float) -> str:
    return f"{name} {_bytes(rate) if name.endswith('bytes') else _number(rate)}"


def _number(rate: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e4)):
        if rate >= size:
            return f"{rate / (1e6 if unit == 'M' else 1e3):.1f}{unit}"
    return f"{rate:.0f}"


def _bytes(rate: float) -> str:
    for unit in ("", "K", "M"):
        if rate < 1024:
            return f"{rate:.0f}{unit}" if not unit else f"{rate:.1f}{unit}"
        rate /= 1024
    return f"{rate:.1f}G"
