# SPDX-License-Identifier: Apache-2.0
"""A bar chart of ratios as SVG, without any library."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

ROW, LEFT, WIDTH, RIGHT, TOP = 20, 330, 420, 60, 40
GOOD, BAD = "#4a8f5b", "#c0563f"


def bars(title: str, values: Sequence[tuple[str, float]], lines: Sequence[float]) -> str:
    """One bar for each (label, value), and a vertical line at each of `lines`; below the first is another colour."""
    most = max([value for _, value in values] + list(lines)) * 1.05
    scale = WIDTH / most
    bottom = TOP + ROW * len(values)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{bottom + 30}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="8" y="20" font-size="14">{escape(title)}</text>',
    ]
    for n, (label, value) in enumerate(values):
        y = TOP + ROW * n
        fill = GOOD if value >= lines[0] else BAD
        out.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>')
        out.append(f'<rect x="{LEFT}" y="{y + 3}" width="{value * scale:.1f}" height="{ROW - 6}" fill="{fill}"/>')
        out.append(f'<text x="{LEFT + value * scale + 4:.1f}" y="{y + 14}">{value:.2f}</text>')
    for line in lines:
        x = LEFT + line * scale
        ends = f'x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"'
        out.append(f'<line {ends} stroke="#444444" stroke-dasharray="3 3"/>')
        out.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{line:g}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
