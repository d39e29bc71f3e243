"""What every client and every server must do, as code that can be called.

A promise is a function; its docstring is the promise in one sentence.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from pyf.station.testing.bench import (
    BLOB,
    QUIET,
    Bench,
    Connect,
    HandlerFailed,
    Promise,
    SourceFailed,
    Tally,
    beside,
    expect,
    failure_of,
    typed,
    wait_for,
)
from pyf.station.testing.chaos import WAIT, Cut
from pyf.station.testing.scripts import KINDS, STOP, TAKE, Drain, Hold, Kind, Say, Script
from pyf.transport import (
    ClientError,
    ConnectFailed,
    FlowRefused,
    Limits,
    Packet,
    ServerError,
    StationError,
)

COUNT: Final = 1000
"""Packets of a flow that has an end: more than one batch."""

VALUES: Final[dict[str, Any]] = {
    "none": None,
    "bools": [True, False],
    "ints": [0, 1, -1, 2**63, -(2**64), 10**40],
    "floats": [0.0, -0.0, 1.0, float("inf")],
    "str": "häß ☃",
    "bytes": b"\0\xff",
    "nested": {"list": [[], {}, [None]], "1": {"2": {}}},
    "moments": [
        datetime(2024, 2, 29, 23, 59, 59, 999999),  # noqa: DTZ001 - naive ones travel too
        datetime(2024, 2, 29, tzinfo=UTC),
    ],
    "dates": [date(1, 1, 1), time(12, 30), timedelta(days=-1, microseconds=1)],
    "decimals": [Decimal("1.10"), Decimal("-0")],
    "uuid": UUID(int=7),
}
"""One of each type that travels."""


def every_packet_arrives_once_and_in_order(bench: Bench) -> None:
    """The handler gets every packet of the flow, once and in order, and then the flow ends."""
    got: list[Packet | None] = []

    def script() -> Script:
        while got[-1:] != [None]:
            got.append((yield TAKE))

    with bench.client(script) as client:
        list(client.call(_numbers()))
    expect([packet and packet["n"] for packet in got], [*range(COUNT), None], "it got")


def the_header_comes_first(bench: Bench) -> None:
    """A header that is given beside the flow is the first packet that the handler gets."""
    got: list[Packet | None] = []

    def script() -> Script:
        got.extend([(yield TAKE), (yield TAKE)])

    with bench.client(script) as client:
        list(client.call(iter([Packet(n=1)]), header=Packet(action="check")))
    expect(got, [Packet(action="check"), Packet(n=1)], "it got")


def each_packet_gives_true(bench: Bench) -> None:
    """The call gives True once for each packet of the flow, and never for the header beside it."""
    with bench.client(_read_all) as client:
        values = list(client.call(_numbers(), header=Packet(action="check")))
    expect(sum(value is True for value in values), COUNT, "the times that it gave True are")


def messages_come_back_in_order(bench: Bench) -> None:
    """The call gives every message of the handler, once and in order."""

    def script() -> Script:
        while packet := (yield TAKE):
            yield Say(Packet(n=packet["n"]))

    with bench.client(script) as client:
        values = [value for value in client.call(_numbers()) if value is not True]
    expect([value.get("n") for value in values[:-1]], list(range(COUNT)), "the messages were")


def the_success_comes_last(bench: Bench) -> None:
    """What the handler succeeds with is the last that the call gives, behind every message."""

    def script() -> Script:
        yield Say(Packet(n=1))
        yield from _read_all()
        yield Say(Packet(n=2))
        return {"total": 3}

    with bench.client(script) as client:
        values = [value for value in client.call(_numbers()) if value is not True]
    success = {"type": "success", "message": {"total": 3}}
    expect(values, [{"n": 1}, {"n": 2}, success], "what came back is")


def an_early_answer_closes_the_generator(bench: Bench) -> None:
    """A handler may answer before the flow's end: the generator is closed, the call succeeds."""
    closed = Tally()

    def script() -> Script:
        yield TAKE
        return "enough"

    with bench.client(script) as client:
        values = list(client.call(_endless(Tally(), closed)))
        expect(values[-1], {"type": "success", "message": "enough"}, "the last value is")
        expect(closed.settled(), 1, "the times that the generator was closed are")


def a_handler_that_wants_no_more_closes_the_generator(bench: Bench) -> None:
    """A handler may close its flow and go on: the generator is closed, its messages still come."""
    closed, hold = Tally(), Hold()

    def script() -> Script:
        yield TAKE
        yield STOP
        yield hold
        yield Say(Packet(closed=True))
        return "enough"

    def flow() -> Iterator[Packet]:
        try:
            yield from _endless(Tally(), closed)
        finally:
            hold.release()

    with bench.client(script) as client:
        *_, message, success = client.call(flow())
    expect(message, {"closed": True}, "the message after the generator was closed is")
    expect(success, {"type": "success", "message": "enough"}, "the last value is")
    expect(closed.settled(), 1, "the times that the generator was closed are")


def a_failing_generator_fails_both_sides(bench: Bench) -> None:
    """What the generator raises leaves the call as it is, and is a ClientError for the handler."""
    failure = SourceFailed("on purpose")
    seen: list[Any] = []
    ended = threading.Event()

    def script() -> Script:
        try:
            while (yield TAKE):
                seen.append(True)
        except StationError as error:
            seen.append(error)
            raise
        finally:
            ended.set()

    def flow() -> Iterator[Packet]:
        yield from (Packet(n=n) for n in range(3))
        raise failure

    with bench.client(script) as client:
        error = failure_of(client.call(flow()))
        expect(error is failure, True, f"the call raised {error!r}: the same object")
        wait_for(ended, "the handler's end")
    *packets, told = seen
    expect(type(told), ClientError, "the handler got")
    expect((told.error_class, told.sent), ("SourceFailed", 3), "its class and its count are")
    expect(len(packets), 3, "the packets before it are")


def a_failing_handler_fails_the_call(bench: Bench) -> None:
    """What the handler raises is a ServerError of the call, with its class and the counts."""

    def script() -> Script:
        for _ in range(3):
            yield TAKE
        raise HandlerFailed("on purpose")

    with bench.client(script) as client:
        error = failure_of(client.call(_numbers()))
    expect(isinstance(error, ServerError), True, f"the call raised {error!r}: a ServerError")
    assert isinstance(error, ServerError)
    expect(error.error_class, "HandlerFailed", "its error_class is")
    expect(error.consumed, 3, "its consumed is")
    expect(3 <= error.sent <= COUNT, True, f"its sent, {error.sent}, can be")  # noqa: PLR2004


def giving_up_ends_both_sides(bench: Bench) -> None:
    """A call that is closed closes the generator and ends the handler, and each just once."""
    closed, ended = Tally(), Tally()

    def script() -> Script:
        try:
            while (yield TAKE):
                pass
        finally:
            ended.add()

    with bench.client(script) as client:
        call = client.call(_endless(Tally(), closed))
        for _ in range(3):
            next(call)
        call.close()
        expect(closed.settled(), 1, "the times that the generator was closed are")
        expect(ended.settled(), 1, "the times that the handler ended are")


def a_slow_handler_stops_the_generator(bench: Bench) -> None:
    """While the handler reads nothing, the generator stops within a window; then it goes on."""
    hold, given = Hold(), Tally()
    count = 3 * bench.most
    got: list[int] = []

    def script() -> Script:
        yield hold
        while packet := (yield TAKE):
            got.append(packet["n"])

    def flow() -> Iterator[Packet]:
        for n in range(count):
            given.add()
            yield Packet(n=n, blob=BLOB)

    def release() -> None:
        stopped.append(given.settled())
        hold.release()

    stopped: list[int] = []
    with bench.client(script) as client, beside(release):
        try:
            list(client.call(flow()))
        finally:
            hold.release()
    expect(stopped[0] <= bench.most, True, f"it gave {stopped} packets, {bench.most} at the most")
    expect(got, list(range(count)), "the packets that the handler got in the end are")


def a_slow_client_stops_the_handler(bench: Bench) -> None:
    """While the client reads nothing, the handler's messages stop within a window."""
    said, ended = Tally(), threading.Event()

    def script() -> Script:
        try:
            while True:
                said.add()
                yield Say(Packet(blob=BLOB))
        finally:
            ended.set()

    with bench.client(script) as client:
        call = client.call(iter([Packet(n=1)]))
        next(call)
        stopped = said.settled()
        call.close()
        wait_for(ended, "the handler's end after the client gave up")
    expect(stopped <= bench.most, True, f"it said {stopped} messages, {bench.most} at the most")


def values_keep_their_type(bench: Bench) -> None:
    """Every value comes to the handler, and back, equal and of the same type."""

    def script() -> Script:
        packet = yield TAKE
        assert packet is not None
        yield Say(packet)
        return dict(packet)

    with bench.client(script) as client:
        _, message, success = client.call(iter([Packet(VALUES)]))
    expect(typed(dict(message)), typed(VALUES), "the message is")
    expect(typed(success["message"]), typed(VALUES), "the success is")


def a_cut_flow_is_no_success(bench: Bench) -> None:
    """A connection that is cut before the flow is whole fails the call and the handler."""
    for how in ("fin", "rst"):
        _check_cut_flow(bench, how)


def a_silent_network_is_no_success(bench: Bench) -> None:
    """A connection that falls silent fails the call and the handler, within the limits."""
    ended = threading.Event()

    def script() -> Script:
        try:
            yield Say(Packet(n=0))
            yield from _read_all()
        finally:
            ended.set()

    patience = bench.limits.ping_interval * (bench.limits.ping_misses + 1)
    if patience > WAIT / 2:
        return  # Nobody wants to wait so long: give short limits to see it.
    with bench.cut_client(script) as (client, proxy):
        call = client.call(_endless(Tally(), Tally()))
        next(value for value in call if value is not True)
        proxy.cut("silence")
        error = failure_of(call)
        expect(isinstance(error, StationError), True, f"the call raised {error!r}")
        wait_for(ended, "the handler's end")


def a_cut_answer_is_no_success(bench: Bench) -> None:
    """A connection that is cut before the result has come fails the call."""

    def script() -> Script:
        yield from _read_all()
        for n in range(10):
            yield Say(Packet(n=n))
        return "done"

    hows: tuple[Cut, ...] = ("fin", "rst")
    for how in hows:
        with bench.cut_client(script) as (client, proxy):
            proxy.to_client.how = how
            proxy.to_client.cut_after_packets = 1
            error = failure_of(client.call(_numbers()))
            expect(isinstance(error, StationError), True, f"{how}: the call raised {error!r}")


def a_draining_server_ends_well_and_refuses_the_rest(bench: Bench) -> None:
    """While a server drains, the open flow succeeds; a new one fails, and is safe to repeat."""

    def script() -> Script:
        yield TAKE
        yield Drain()
        yield Say(Packet(drains=True))
        yield from _read_all()
        return "done"

    refused: list[Exception] = []
    value: Any = None
    with bench.client(script) as client:
        for value in client.call(_numbers()):
            if value is not True and not refused:
                refused.append(failure_of(client.call(_numbers())))
    expect(value, {"type": "success", "message": "done"}, "the last value is")
    elsewhere = isinstance(refused[0], ConnectFailed) or (
        isinstance(refused[0], FlowRefused) and refused[0].code == "draining"
    )
    expect(elsewhere, True, f"the new call raised {refused[0]!r}: FlowRefused or ConnectFailed")


PROMISES: Final[tuple[Promise, ...]] = (
    every_packet_arrives_once_and_in_order,
    the_header_comes_first,
    each_packet_gives_true,
    messages_come_back_in_order,
    the_success_comes_last,
    an_early_answer_closes_the_generator,
    a_handler_that_wants_no_more_closes_the_generator,
    a_failing_generator_fails_both_sides,
    a_failing_handler_fails_the_call,
    giving_up_ends_both_sides,
    a_slow_handler_stops_the_generator,
    a_slow_client_stops_the_handler,
    values_keep_their_type,
    a_cut_flow_is_no_success,
    a_cut_answer_is_no_success,
    a_silent_network_is_no_success,
    a_draining_server_ends_well_and_refuses_the_rest,
)
"""All promises, each a function of a :class:`Bench`."""


def check_flow_promises(
    connect: Connect, kinds: Sequence[Kind] = KINDS, limits: Limits | None = None
) -> None:
    """Check every promise, with each of the *kinds* of handlers.

    *limits* are those that *connect* gives both sides, if they are not the default ones. Blocks
    until all is checked; a call that hangs is given up after a while, in a thread that stays.

    Raises AssertionError for the first promise that is not kept, naming it.
    """
    for promise in PROMISES:
        for kind in kinds:
            check_promise(promise, Bench(connect, kind, limits or Limits()))


def check_promise(promise: Promise, bench: Bench) -> None:
    """Check one of the PROMISES; raises AssertionError, naming it, where it is not kept."""
    failures: list[BaseException] = []

    def check() -> None:
        try:
            promise(bench)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            failures.append(error)

    name = getattr(promise, "__name__", repr(promise))
    what = f"{name} ({bench.kind} handler): {promise.__doc__}"
    thread = threading.Thread(target=check, name="pyf.station-promise", daemon=True)
    thread.start()
    thread.join(2 * WAIT)
    if thread.is_alive():
        raise AssertionError(f"{what}\nIt did not come to an end within {2 * WAIT:g} s.")
    for error in failures:
        text = str(error) if isinstance(error, AssertionError) else repr(error)
        raise AssertionError(f"{what}\n{text}") from error


def _check_cut_flow(bench: Bench, how: Cut) -> None:
    """Cut a flow of five packets after the third, each having gone through before the next."""
    endings: list[Any] = []
    ended = threading.Event()

    def script() -> Script:
        try:
            while (yield TAKE):
                pass
            endings.append(None)
        except StationError as error:
            endings.append(error)
            raise
        finally:
            ended.set()

    with bench.cut_client(script) as (client, proxy):
        proxy.to_server.how = how
        proxy.to_server.cut_after_packets = 3

        def flow() -> Iterator[Packet]:
            for n in range(5):
                yield Packet(n=n)
                proxy.to_server.wait_for_packets(min(n + 1, 3))

        error = failure_of(client.call(flow()))
        expect(isinstance(error, StationError), True, f"{how}: the call raised {error!r}")
        # A reset may come before the handler has got a word of it: then it was never started.
        if how == "rst" and not ended.wait(QUIET):
            return
        wait_for(ended, "the handler's end")
    expect(isinstance(endings[0], StationError), True, f"{how}: the flow ended with {endings}")


def _read_all() -> Script:
    while (yield TAKE):
        pass


def _numbers() -> Iterator[Packet]:
    return (Packet(n=n) for n in range(COUNT))


def _endless(given: Tally, closed: Tally) -> Iterator[Packet]:
    try:
        while True:
            given.add()
            yield Packet(n=given.count)
    finally:
        closed.add()
