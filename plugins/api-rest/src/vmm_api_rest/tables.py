# SPDX-License-Identifier: Apache-2.0
"""The API's answers for people."""

from __future__ import annotations

from vmmcore.front.config import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns; the first is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def plain(value: Any) -> str:
    """A small object in one line."""
    return "  ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def ping(value: dict[str, Any]) -> str:
    return f"vmm {value['version']}, pid {value['pid']}"


def info(value: dict[str, Any]) -> str:
    """What vm.info says: the machine in a line, then its devices."""
    config = value["config"]
    cpus, memory, payload = config["cpus"], config["memory"], config["payload"]
    size = human_size(value.get("memory_actual_size") or memory["size"])
    lines = [f"{value['state']}: {cpus['boot_vcpus']} of {cpus['max_vcpus']} vCPUs, {size} of RAM"]
    lines += [f"{key}: {payload[key]}" for key in ("firmware", "kernel", "initramfs", "cmdline") if payload.get(key)]
    rows = [["ID", "TYPE", "PLACE", "STATE"]]
    for name, node in (value.get("device_tree") or {}).items():
        place = node.get("pci_bdf") or "-"
        rows.append([name, node.get("type") or "-", place, "removing" if node.get("removing") else ""])
    return "\n".join([*lines, *([table(rows)] if len(rows) > 1 else [])])


def counters(value: dict[str, dict[str, int]]) -> str:
    rows = [["ID", "COUNTER", "VALUE"]]
    rows += [[name, key, str(number)] for name, found in value.items() for key, number in found.items()]
    return table(rows)
