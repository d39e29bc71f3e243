"""The line that tells how a flow goes: rate, sent and consumed, who is waited for, how long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import click

from pyf.station.cli.common import Decorator

CLEAR: Final = "\r\x1b[K"
"""What takes the line away."""

INTERVAL: Final = 0.25
"""Seconds between two looks."""


class Look(NamedTuple):
    """What is to be seen of a flow at one moment."""

    at: float
    sent: int
    consumed: int
    received: int
    fraction: float | None
    """How much of the flow has left, where its length is known."""
    source_waits: bool
    """Whether the source is asked for a packet, and has none."""
    ended: bool
    """Whether the source has ended."""


def look(call: Any, source: Any, at: float) -> Look:
    """Look at *call*, which sends *source*."""
    length = call.length_hint
    fraction = call.sent / length if length else getattr(source, "fraction", None)
    waits, ended = getattr(source, "waiting", False), getattr(source, "ended", False)
    return Look(at, call.sent, call.consumed, call.received, fraction, waits, ended)


def stalled_by(before: Look, now: Look) -> str:
    """Return who is waited for, "" where packets move."""
    if now.sent != before.sent:
        return ""
    if now.ended:
        return "the result"
    return "the input" if now.source_waits else "the handler"


def describe(first: Look, before: Look, now: Look) -> str:
    """Return the line."""
    seconds = now.at - before.at
    rate = (now.sent - before.sent) / seconds if seconds > 0 else 0.0
    parts = [f"{now.sent:,} sent", f"{now.consumed:,} consumed", f"{now.received:,} back"]
    parts.append(f"{rate:,.0f}/s")
    if who := stalled_by(before, now):
        parts.append(f"waiting for {who}")
    elif now.fraction:
        left = (now.at - first.at) * (1 / now.fraction - 1)
        parts.append(f"{min(now.fraction, 1):.0%}, ETA {_duration(max(left, 0.0))}")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def is_wanted(source: Any) -> bool:
    """Whether there is a line by default: on a terminal, unless *source* is typed there."""
    return sys.stderr.isatty() and not getattr(source, "typed", False)


@contextmanager
def metering(
    call: Any, source: Any, wanted: bool, clock: Callable[[], float] = time.monotonic
) -> Generator[None]:
    """Draw the line on stderr meanwhile, if it is *wanted*."""
    if not wanted:
        yield
        return
    done = threading.Event()
    first = look(call, source, clock())

    def draw() -> None:
        before = first
        while not done.wait(INTERVAL):
            now = look(call, source, clock())
            click.echo(f"{CLEAR}{describe(first, before, now)}", err=True, nl=False)
            before = now

    thread = threading.Thread(target=draw, name="pyf.station-meter", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        last = look(call, source, clock())
        line = describe(first, first, last._replace(source_waits=False))
        click.echo(f"{CLEAR}{line}", err=True)


progress_option: Decorator = click.option(
    "--progress/--no-progress",
    default=None,
    help="A line on stderr with rate, sent and consumed, who is waited for. By default on a "
    "terminal, unless the input is typed there.",
)
