# SPDX-License-Identifier: Apache-2.0
"""Medians and tables."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from statistics import median, quantiles


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest, largest and their number."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile, largest and their number."""
    cuts = quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "max": max(values), "n": len(values)}


def compare(ours: Sequence[float], theirs: Sequence[Sequence[float]], lower: bool) -> dict[str, float]:
    """``ratio``: our median to the best of theirs, more than 1 is better for us; ``lower``: small values are good ones.

    ``low`` and ``high``, where there are samples enough: 95 % of the ratios that samples drawn from these would give
    (bootstrap). Of two equal contestants the better one is better by chance, so that for three equal ones the ratio is
    below 1.
    """

    def of(ours: Sequence[float], theirs: Sequence[Sequence[float]]) -> float:
        middles = [median(values) for values in theirs]
        return min(middles) / median(ours) if lower else median(ours) / max(middles)

    found = {"ratio": of(ours, theirs)}
    if min(len(values) for values in (ours, *theirs)) >= 5:
        draw = Random(0).choices  # always the same: the data alone shall make the difference
        drawn = [of(draw(ours, k=len(ours)), [draw(v, k=len(v)) for v in theirs]) for _ in range(2000)]
        cuts = quantiles(drawn, n=40)
        found |= {"low": cuts[0], "high": cuts[-1]}
    return found


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
