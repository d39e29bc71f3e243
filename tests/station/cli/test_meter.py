"""The line of progress says how a flow goes, and who is waited for."""

from types import SimpleNamespace

import pytest

from pyf.station.cli.meter import Look, describe, is_wanted

START = Look(0.0, 0, 0, 0, 0.0, False, False)


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        (
            START,
            START._replace(at=2.0, sent=2000, consumed=1000, fraction=0.25),
            "2,000 sent, 1,000 consumed, 0 back, 1,000/s, 25%, ETA 0:06",
        ),
        (START, START._replace(at=1.0, sent=5, fraction=None), "5 sent, 0 consumed, 0 back, 5/s"),
        (
            START,
            START._replace(at=1.0, source_waits=True),
            "0 sent, 0 consumed, 0 back, 0/s, waiting for the input",
        ),
        (START, START._replace(at=1.0), "0 sent, 0 consumed, 0 back, 0/s, waiting for the handler"),
        (
            START,
            START._replace(at=1.0, ended=True),
            "0 sent, 0 consumed, 0 back, 0/s, waiting for the result",
        ),
        (
            START,
            START._replace(at=100.0, sent=10, fraction=0.01),
            "10 sent, 0 consumed, 0 back, 0/s, 1%, ETA 2:45:00",
        ),
    ],
)
def test_the_line(before, now, line):
    """
    Rate since the last look, and the time that is left at the pace so far.
    """
    assert describe(START, before, now) == line


@pytest.mark.parametrize(
    ("terminal", "source", "wanted"),
    [
        (True, SimpleNamespace(typed=False), True),
        (True, SimpleNamespace(typed=True), False),
        (True, (), True),
        (False, (), False),
    ],
)
def test_there_is_a_line_on_a_terminal(monkeypatch, terminal, source, wanted):
    """
    But not over what a person types there.
    """
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: terminal))
    assert is_wanted(source) is wanted
