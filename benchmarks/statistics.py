"""Medians, and what surrounds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple


class Figure(NamedTuple):
    """A figure of several runs."""

    median: float
    min: float
    max: float


def figure(values: Iterable[float]) -> Figure:
    known = list(values)
    return Figure(median(known), min(known), max(known))


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """Return p50 and p99 in µs, and p99 over p50."""
    ordered = sorted(seconds)
    p50, p99 = (percentile(ordered, share) * 1e6 for share in (0.5, 0.99))
    return {"p50": p50, "p99": p99, "spread": p99 / p50}
