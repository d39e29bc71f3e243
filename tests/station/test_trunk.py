"""How the connection is made, and made again, by a clock that the test turns."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from pyf.station.trunk import Timeout, Trunk
from pyf.station.tx import ReactorLoop
from pyf.transport import ConnectFailed, DeadlineExceeded, FlowRefused, Limits, LocalProtocolError


class FakeConnection:
    """
    What a trunk knows of a connection.
    """

    def __init__(self) -> None:
        self.usable = True
        self.ending: Any = None
        self.closed = ""

    def lost(self, reason: str) -> None:
        self.usable, self.closed = False, reason

    def close(self) -> None:
        self.lost("closed")

    async def emptied(self, seconds: float) -> None:
        pass


class Dialler:
    """
    Dials as the test says: each attempt is noted with its time, and fails while *down*.
    """

    def __init__(self, reactor: Any, limits: Limits | None = None, rng: Any = lambda: 1.0) -> None:
        self.reactor = reactor
        self.down = False
        self.times: list[float] = []
        self.held: list[Deferred[None]] | None = None
        self.trunk = Trunk(ReactorLoop(reactor), limits or Limits(), self.dial, rng)

    async def dial(self, trunk: Trunk) -> Any:
        self.times.append(round(self.reactor.seconds(), 3))
        if self.held is not None:
            self.held.append(Deferred())
            await self.held[-1]
        if self.down:
            raise ConnectFailed("it is down", host="h", port=1)
        return FakeConnection()

    def call(self, timeout: float | None = None) -> list[Any]:
        results: list[Any] = []
        clock = Timeout(self.trunk.loop, timeout)
        running = Deferred.fromCoroutine(self.trunk.connected(clock))
        running.addBoth(lambda result: clock.cancel() or results.append(result))
        self.reactor.advance(0)
        return results


@pytest.fixture
def dialler(hand_reactor):
    return lambda *args, **kwargs: Dialler(hand_reactor, *args, **kwargs)


def error(results: list[Any]) -> Any:
    (failure,) = results
    assert isinstance(failure, Failure)
    return failure.type


def test_calls_share_one_attempt(dialler):
    """
    Calls that come while it is dialled wait for the same connection, and later ones find it.
    """
    one = dialler()
    one.held = []
    calls = [one.call() for _ in range(3)]
    one.held[0].callback(None)
    one.reactor.advance(0)
    (connection,) = calls[0]
    assert calls == [[connection]] * 3
    assert one.call() == [connection]
    assert len(one.times) == 1


def test_the_first_attempt_fails_at_once(dialler):
    """
    A server that never was there is no reason to wait: each call fails with an error of its own.
    """
    one = dialler()
    one.down = True
    assert error(one.call()) is error(one.call()) is ConnectFailed
    assert one.times == [0, 0]


def test_new_calls_reconnect_with_backoff(dialler, hand_reactor):
    """
    Where the server was there before, a new call waits while it is dialled again and again.
    """
    one = dialler()
    (connection,) = one.call()
    one.trunk.greeted()
    one.trunk.left(connection, "lost")
    assert connection.closed == "lost"
    one.down = True
    call = one.call()
    for wait in (1, 2):
        hand_reactor.advance(wait - 0.001)
        hand_reactor.advance(0.001)
        hand_reactor.advance(0)
    assert one.times == [0, 0, 1, 3]
    one.down = False
    for _ in range(100):
        hand_reactor.advance(0.05)
    assert len(one.times) == 5
    assert isinstance(call[0], FakeConnection)


def test_reconnecting_ends_in_time(dialler, hand_reactor):
    """
    After connect_timeout the calls fail; one whose own time is over fails before.
    """
    one = dialler(Limits(connect_timeout=3))
    (connection,) = one.call()
    one.trunk.greeted()
    one.trunk.left(connection, "lost")
    one.down = True
    call, hasty = one.call(), one.call(timeout=1)
    for _ in range(11):
        hand_reactor.advance(0.1)
    assert error(hasty) is DeadlineExceeded
    assert not call
    for _ in range(30):
        hand_reactor.advance(0.1)
    assert error(call) is ConnectFailed


def test_a_server_that_drains_is_dialled_once(dialler):
    """
    Where nobody is there in its place, each new call is refused at once; a successor takes them.
    """
    one = dialler()
    (connection,) = one.call()
    one.trunk.greeted()
    connection.usable, connection.ending = False, FlowRefused("it drains", code="draining")
    one.down = True
    for _ in range(3):
        (failure,) = one.call()
        assert (failure.type, failure.value.code) == (FlowRefused, "draining")
        assert isinstance(failure.value.__cause__, ConnectFailed)
    assert one.times == [0] * 4
    one.down = False
    assert isinstance(one.call()[0], FakeConnection)


def test_closing(dialler, hand_reactor):
    """
    close() ends the connection, the dialling, and what waits for it.
    """
    one = dialler()
    (connection,) = one.call()
    Deferred.fromCoroutine(one.trunk.close())
    assert connection.closed
    assert error(one.call()) is LocalProtocolError
    two = dialler()
    two.held = []
    call = two.call()
    Deferred.fromCoroutine(two.trunk.close())
    hand_reactor.advance(0)
    assert error(call) is LocalProtocolError


def test_a_connection_that_has_ended_before_it_is_there_is_not_kept(dialler):
    """A client whose connections are cut at once, again and again, holds on to none of them."""
    one = dialler()

    async def cut(trunk: Trunk) -> Any:
        connection: Any = FakeConnection()
        trunk.left(connection, "cut")
        return connection

    one.trunk._dial = cut
    (connection,) = one.call()
    assert connection.closed == "cut"
    assert not one.trunk._connections
