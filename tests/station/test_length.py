"""A flow whose source knows its length says so, and both sides see it."""

import pytest

from pyf.station import StationClient
from pyf.station.length import known_length


class Source:
    """
    Three packets, of which it says what it is told to say.
    """

    def __init__(self, hint):
        self.hint = hint

    def __iter__(self):
        return iter([{"n": 1}] * 3)

    def __length_hint__(self):
        if isinstance(self.hint, Exception):
            raise self.hint
        return self.hint


@pytest.mark.parametrize(
    ("flow", "length"),
    [
        ([{"n": 1}], 1),
        ((), 0),
        (iter([{}, {}]), 2),
        (Source(10**6), 10**6),
        (Source(NotImplemented), None),
        (Source(ValueError("none")), None),
        (Source(-5), None),
        (Source("three"), None),
        ((packet for packet in [{}]), None),
    ],
)
def test_what_is_known_of_a_flow(flow, length):
    """
    A length is taken from ``__len__`` and ``__length_hint__``; what fails or is absurd is unknown.
    """
    assert known_length(flow) == length


def test_both_sides_see_the_length(serve):
    """
    The handler and the call have the same ``length_hint``, also where it is wrong.
    """
    port = serve(lambda flow, client: [flow.length_hint, sum(1 for _ in flow)])
    client = StationClient("127.0.0.1", port, True)
    for source, hint in (([{"n": 1}] * 5, 5), (Source(7), 7), (iter(Source(7)), 3)):
        call = client.call(source, header={"h": 1})
        assert call.length_hint == hint
        *_, success = call
        assert success is not True
        assert success.message[0] == hint
    call = client.call(packet for packet in [{"n": 1}])
    assert call.length_hint is None
    *_, success = call
    assert success == {"type": "success", "message": [None, 1]}


def test_a_coroutine_sees_the_length(serve):
    """
    So it is for a handler on the reactor.
    """

    async def handler(flow, client):
        return flow.length_hint

    port = serve(handler)
    assert StationClient("127.0.0.1", port).send([{"n": 1}] * 4, header={}) == 4
