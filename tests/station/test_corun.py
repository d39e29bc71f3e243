"""What a run of an async client tells of what has left."""

from types import SimpleNamespace
from typing import Any

from pyf.station.corun import CallRun
from pyf.station.counts import Progress


def test_what_left_in_an_earlier_run_is_told_where_nothing_is_left_to_send():
    """
    The server has handled what the caller had not heard of yet, and the run before was lost.
    """
    progress = Progress()
    unused: Any = None
    run = CallRun(unused, unused, unused, None, None, waits=True, progress=progress)
    before: Any = SimpleNamespace(start=0, sent=7, told=0, consumed=0)
    progress.follow(before)
    run.stream = before
    assert run._departures() == 7
    behind: Any = SimpleNamespace(start=10, sent=0, told=0, consumed=0)
    progress.follow(behind)
    run.stream = behind
    assert [run._departures(), run._departures()] == [3, 0]
