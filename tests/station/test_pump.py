"""What a pump takes from a source that is there already, and when it says that this was all."""

from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pyf.station.burst import BURST_BYTES
from pyf.station.pump import Inline, IteratorPump
from pyf.station.workers import Slots
from pyf.transport import encode_packet
from pyf.transport.limits import LARGE, TURN_BYTES
from pyf.transport.pieces import Pending


class Stream:
    """
    A flow with credit for everything, which writes down what leaves.
    """

    def __init__(self, take_apart: Callable[..., list[Any]]) -> None:
        self.take_apart = take_apart
        self.pending: Pending = deque()
        self.bursts: list[list[int]] = []
        self.sent = self.told = self.ends = 0
        self.packet_size = 1
        self.over = False
        self.on_room: Callable[[], object] = bool

    def room(self) -> int:
        return 1_000_000

    def send(self) -> None:
        self.bursts.append(list(map(len, self.take_apart(self.pending))))
        self.sent += len(self.bursts[-1])
        self.told = self.sent

    def end(self) -> None:
        self.ends += 1

    def flush(self) -> None: ...

    def touch(self) -> None: ...


@pytest.fixture
def pumped(take_apart: Callable[..., list[Any]]) -> Iterator[Callable[[list[Any]], Any]]:
    """
    Have a list pumped to its end; return the stream.
    """
    turns: deque[Callable[[], object]] = deque()

    def pump(flow: list[Any]) -> Any:
        stream: Any = Stream(take_apart)
        loop: Any = SimpleNamespace(soon=turns.append, clock=lambda: 0.0)
        made = IteratorPump(loop, stream, iter(flow), Inline(), Slots(1))
        made.more()
        while turns:
            turns.popleft()()
        assert made.closed
        assert made.failure is None
        return stream

    yield pump
    assert not turns


@pytest.mark.parametrize("sizes", [[100_000] * 60, [10] * 50_000, [10] * 9_000 + [1_000_000] * 30])
def test_a_burst_of_a_list_is_bounded_in_bytes_whatever_came_before(pumped, sizes):
    """
    But for one packet more; and all of it leaves, in order, before its one END.
    """
    flow = [{"n": n, "blob": bytes(size)} for n, size in enumerate(sizes)]
    stream = pumped(flow)
    expected = [len(encode_packet(packet)) for packet in flow]
    assert [size for burst in stream.bursts for size in burst] == expected
    for burst in stream.bursts:
        most = TURN_BYTES if burst and burst[0] >= LARGE else BURST_BYTES
        assert sum(burst[:-1]) <= most
    assert (stream.sent, stream.ends) == (len(flow), 1)


@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_a_short_list_leaves_at_once_with_its_end(pumped, count):
    stream = pumped([{"n": 1}] * count)
    assert (len(stream.bursts), stream.sent, stream.ends) == (1, count, 1)
