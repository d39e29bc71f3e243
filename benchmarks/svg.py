"""Pictures for the page: bars, and lines over a logarithmic scale. Plain SVG, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10

COLOURS = ("#2a78b8", "#d9822b", "#3c9a5f", "#a0509a", "#777777")
WIDTH = 720
ROW = 24
LABEL = 230  # where the bars begin
STYLE = "font: 13px sans-serif; fill: #444"

Points = Sequence[tuple[float, float]]


def picture(height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}">'
    paper = f'<rect width="{WIDTH}" height="{height:g}" fill="#fff"/>'
    return "\n".join([head, paper, f'<g style="{STYLE}">', *parts, "</g>", "</svg>", ""])


def text(x: float, y: float, content: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def bars(rows: Sequence[tuple[str, float, bool]]) -> str:
    """Return bars for (label, value, whether it is ours), from zero."""
    widest = max(value for _, value, _ in rows)
    parts = []
    for number, (label, value, ours) in enumerate(rows):
        top = 8 + number * ROW
        length = (WIDTH - LABEL - 70) * value / widest
        colour = COLOURS[0] if ours else COLOURS[-1]
        parts += [
            text(LABEL - 8, top + 14, label, "end"),
            f'<rect x="{LABEL}" y="{top}" width="{length:.1f}" height="{ROW - 6}" fill="{colour}"/>',
            text(LABEL + length + 6, top + 14, f"{value:.2g}"),
        ]
    return picture(16 + len(rows) * ROW, parts)


def lines(curves: Mapping[str, Points], across: str, up: str) -> str:
    """Return curves over two logarithmic scales, and a name for each."""
    points = [point for curve in curves.values() for point in curve]
    columns = sorted({x for x, _ in points})
    left, right, top, bottom = 70.0, WIDTH - 20.0, 34.0, 270.0
    low, high = log10(columns[0]), max(log10(columns[-1]), log10(columns[0]) + 1)
    values = [log10(y) for _, y in points if y > 0]
    floor, roof = int(min(values) // 1), int(-(-max(values) // 1))
    roof = max(roof, floor + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        share = (log10(max(y, 1e-9)) - floor) / (roof - floor)
        across_share = (log10(x) - low) / (high - low)
        return left + (right - left) * across_share, bottom - (bottom - top) * share

    parts = [text(left, 18, up), text(right, 306, across, "end")]
    for power in range(floor, roof + 1):
        y = place(columns[0], 10.0**power)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(text(left - 6, y + 4, short(10.0**power), "end"))
    parts += [text(place(x, 1)[0], 288, short(x), "middle") for x in columns]
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<rect x="{left}" y="{320 + number * 20}" width="14" height="4" fill="{colour}"/>'
        )
        parts.append(text(left + 20, 327 + number * 20, name))
    return picture(340 + len(curves) * 20, parts)


def short(value: float) -> str:
    """Write a number in few letters: 20k, 3M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
