# SPDX-License-Identifier: Apache-2.0
"""Medians and tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest, largest and their number."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    out = []
    for line in lines:
        cells = [
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        out.append("  " + "  ".join(cells).rstrip())
    out.insert(1, "  " + "  ".join("-" * width for width in widths))
    return "\n".join(out)


def ratio(value: float, base: float | None) -> str:
    """``value / base`` for a cell, or a dash."""
    return f"{value / base:.2f}x" if base else "-"
