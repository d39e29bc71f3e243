"""The counters of a call, whoever makes its packets, and wherever it is stopped."""

import pytest

from pyf.station.counts import Progress
from pyf.transport import Packet


@pytest.fixture(params=[dict, Packet], ids=["in Python", "compiled"])
def maps(request):
    """
    A batch as it has been decoded.
    """
    return [request.param(n=n) for n in range(3)]


def test_what_has_been_yielded_counts_as_received(maps):
    progress = Progress()
    packets = progress.read(maps)
    assert [(packet, progress.received) for packet in packets] == [
        ({"n": 0}, 1),
        ({"n": 1}, 2),
        ({"n": 2}, 3),
    ]


def test_the_success_is_one_of_the_packets():
    progress = Progress()
    progress.came()
    progress.final = Packet()
    assert progress.received == 2


def test_what_is_left_where_reading_is_stopped_is_read_in_order(maps):
    """
    As packets, which count once.
    """
    progress = Progress()
    packets = progress.read(maps)
    first = next(packets)
    progress.stop_reading()
    assert (list(packets), progress.received) == ([], 1)
    rest = list(progress.read(progress.unread()))
    assert ([first, *rest], progress.received) == ([{"n": 0}, {"n": 1}, {"n": 2}], 3)
    assert {type(packet) for packet in rest} == {Packet}
    assert progress.unread() == []


def test_nothing_comes_of_what_is_stopped(maps):
    progress = Progress()
    packets, departing = progress.read(maps), progress.departures()
    progress.stop()
    assert (list(packets), list(departing), progress.received) == ([], [], 0)
