"""The blocking client's calls, against a real server."""

import gc
import itertools
import socket
import threading
import tracemalloc
import weakref
from collections import Counter
from contextlib import suppress
from dataclasses import fields
from queue import Empty, Queue
from typing import Any

import pytest

from pyf.station import link as link_module
from pyf.station.client import Call, StationClient
from pyf.station.sessions import ResumePolicy
from pyf.transport import (
    ClientError,
    ConnectFailed,
    DeadlineExceeded,
    FlowCancelled,
    FlowRefused,
    Limits,
    Packet,
    PacketTooLarge,
    ServerError,
    UnsupportedValue,
)

WAIT = 30.0


class Recorder:
    """
    A handler that notes each packet it gets, and how its flow ends: None for a whole one.
    """

    def __init__(self) -> None:
        self.packets: Queue[Packet] = Queue()
        self.endings: Queue[BaseException | None] = Queue()

    def __call__(self, flow, client):
        count = 0
        try:
            for packet in flow:
                self.packets.put(packet)
                count += 1
        except BaseException as error:
            self.endings.put(error)
            raise
        self.endings.put(None)
        return count

    def taken(self) -> list[Packet]:
        """
        The packets so far.
        """
        packets = []
        while True:
            try:
                packets.append(self.packets.get_nowait())
            except Empty:
                return packets

    def ending(self) -> BaseException | None:
        return self.endings.get(timeout=WAIT)


class Source:
    """
    Yields *count* packets, or for ever; notes what it is asked for, and that its finally ran.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count
        self.asked = 0
        self.finals = 0

    def __iter__(self):
        try:
            for number in itertools.count() if self.count is None else range(self.count):
                self.asked += 1
                yield {"n": number}
        finally:
            self.finals += 1


def count(flow, client):
    return sum(1 for _ in flow)


def echo(flow, client):
    for packet in flow:
        client.message(packet)


def numbers(*values: int) -> list[dict[str, Any]]:
    return [{"n": value} for value in values]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def connect(serve):
    """
    Serve with a handler; return a client of that server, which waits for success.
    """

    def connect(handler: Any, *, waits: bool = True, **options: Any) -> StationClient:
        return StationClient("127.0.0.1", serve(handler, **options), waits)

    return connect


# What can be called


def test_a_call_does_nothing_before_it_is_iterated():
    """
    call() is lazy: no connection, and the flow is not asked for a packet.
    """
    source = Source()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        call = StationClient("127.0.0.1", bound.getsockname()[1]).call(source)
        assert (call.sent, call.consumed, call.received) == (0, 0, 0)
        assert source.asked == 0
        with pytest.raises(ConnectFailed):
            next(call)
    assert source.asked == 0


def test_a_call_that_was_never_iterated_closes():
    """
    Closing what has not begun connects nowhere.
    """
    StationClient("127.0.0.1").call([]).close()


@pytest.mark.parametrize(
    "flow", [None, 5, "text", b"bytes", bytearray(b"x"), {"a": 1}, Packet(a=1)]
)
@pytest.mark.parametrize("method", ["call", "send", "stream"])
def test_what_is_no_flow_is_refused_at_once(method, flow):
    """
    TypeError where call() is called, not where it is iterated; a single packet is no flow.
    """
    with pytest.raises(TypeError, match="a flow is an iterable of Packets or dicts, not a"):
        getattr(StationClient("127.0.0.1"), method)(flow)


@pytest.mark.parametrize("header", ["text", [("a", 1)], 5, True])
@pytest.mark.parametrize("method", ["call", "send", "stream"])
def test_what_is_no_header_is_refused_at_once(method, header):
    """
    TypeError where call() is called.
    """
    with pytest.raises(TypeError, match="a header is a Packet or a dict, not a"):
        getattr(StationClient("127.0.0.1"), method)([], header=header)


@pytest.mark.parametrize("timeout", [-1, float("inf"), float("nan"), 10**400])
def test_what_is_no_timeout_is_refused_at_once(timeout):
    """
    ValueError where call() is called.
    """
    with pytest.raises(ValueError, match="a timeout is a number of seconds"):
        StationClient("127.0.0.1").call([], timeout=timeout)


@pytest.mark.parametrize("timeout", ["5", True, b"", 5j])
def test_a_timeout_that_is_no_number_is_a_type_error(timeout):
    """
    TypeError where call() is called, that says what a timeout is.
    """
    with pytest.raises(TypeError, match="a timeout is a number of seconds"):
        StationClient("127.0.0.1").call([], timeout=timeout)


@pytest.mark.parametrize(
    ("address", "error"),
    [(("",), ValueError), ((None,), TypeError), ((b"a",), TypeError), (("a", "80"), TypeError)],
)
def test_what_is_no_address_is_refused_at_once(address, error):
    """
    A host is a str that is not empty, a port an int.
    """
    with pytest.raises(error, match=r"a (host|port) is"):
        StationClient(*address)


@pytest.mark.parametrize("port", [0, -1, 65536, 70000])
def test_what_is_no_port_is_refused_at_once(port):
    """
    ValueError: the system would take 70000 for another port.
    """
    with pytest.raises(ValueError, match="a port is 1 to 65535"):
        StationClient("127.0.0.1", port)


def test_the_port_is_6789_unless_another_is_given():
    """
    The default port, and the other defaults.
    """
    client = StationClient("localhost")
    assert (client.host, client.port, client.waits_for_success) == ("localhost", 6789, False)
    assert client.limits == Limits()


@pytest.mark.parametrize(
    "make",
    [list, tuple, iter, lambda flow: (packet for packet in flow), lambda flow: map(Packet, flow)],
)
def test_a_flow_may_be_any_iterable(connect, recorder, make):
    """
    Lists, tuples, iterators and generators, of dicts or Packets.
    """
    client = connect(recorder)
    assert client.send(make(numbers(1, 2, 3))) == 3
    assert recorder.taken() == numbers(1, 2, 3)


# What a call yields


@pytest.mark.parametrize("size", [0, 1, 2, 3, 100, 2000])
def test_a_call_yields_true_for_each_packet_and_the_result_last(connect, size):
    """
    One True per packet of the flow, then the success.
    """
    call = connect(count).call(Source(size))
    assert list(call) == [True] * size + [{"type": "success", "message": size}]
    assert (call.sent, call.consumed, call.received) == (size, size, 1)


@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_header_that_is_given_is_not_counted(connect, recorder, size):
    """
    With header= the flow's own packets are counted, and they alone.
    """
    call = connect(recorder).call(Source(size), header={"action": "x"})
    assert list(call)[:-1] == [True] * size
    assert (call.sent, call.consumed) == (size, size)
    assert recorder.taken() == [{"action": "x"}, *numbers(*range(size))]


def test_without_a_header_the_first_packet_is_the_header(connect):
    """
    flow.header and client.header hold the flow's first packet.
    """

    def handler(flow, client):
        return [flow.header, client.header, next(flow)]

    assert connect(handler).send(numbers(1, 2)) == numbers(1, 1, 1)


def test_an_empty_flow_reaches_the_handler_as_an_empty_flow(connect):
    """
    There is no header then.
    """

    def handler(flow, client):
        return [flow.header, list(flow)]

    assert connect(handler).send([]) == [None, []]


def test_a_call_yields_messages_as_packets(connect):
    """
    Each message comes back as it was sent, before the success.
    """
    values = list(connect(echo).call(numbers(1, 2, 3)))
    assert [value for value in values if value is not True] == [
        *numbers(1, 2, 3),
        {"type": "success", "message": None},
    ]
    assert all(value is True or type(value) is Packet for value in values)


def test_who_iterates_a_call_that_is_being_iterated_is_refused_and_no_value_is_lost(connect):
    """
    A source that asks for the next value of its own call, or another thread: ValueError there.
    """
    calls: list[Call] = []

    def source():
        yield {"n": 1}
        for _ in range(2):
            with pytest.raises(ValueError, match="somebody else is iterating"):
                next(calls[0])
        yield {"n": 2}

    calls.append(connect(count).call(source()))
    assert list(calls[0]) == [True, True, {"type": "success", "message": 2}]


def test_a_call_is_an_iterator(connect):
    """
    next() works as a for loop does.
    """
    call = connect(count).call(numbers(1))
    assert isinstance(call, Call)
    assert (next(call), next(call)) == (True, {"type": "success", "message": 1})
    with pytest.raises(StopIteration):
        next(call)


def test_stream_yields_only_what_comes_back(connect):
    """
    stream() leaves the Trues out.
    """
    replies = list(connect(echo).stream(numbers(1, 2)))
    assert replies == [*numbers(1, 2), {"type": "success", "message": None}]


def test_closing_a_stream_cancels_the_flow(connect, recorder):
    """
    What comes of a stream is given up like a call.
    """

    def handler(flow, client):
        client.message({"hello": 1})
        return recorder(flow, client)

    source = Source()
    stream = connect(handler).stream(source)
    assert next(stream) == {"hello": 1}
    stream.close()
    assert isinstance(recorder.ending(), FlowCancelled)
    assert source.finals == 1


def test_send_returns_what_the_handler_succeeded_with(connect):
    """
    send() drains a call, waiting for success whatever the client's default.
    """
    assert connect(count, waits=False).send(numbers(1, 2), header={"a": 1}) == 3


def test_a_handler_that_answers_early_ends_the_generator(connect):
    """
    A result before the END: the generator is closed before the success is yielded, and consumed
    says how many packets the handler had taken.
    """

    def handler(flow, client):
        for _ in itertools.islice(flow, 5):
            pass
        return "enough"

    source = Source()
    call = connect(handler).call(source)
    last = next(value for value in call if value is not True)
    assert source.finals == 1
    assert last == {"type": "success", "message": "enough"}
    assert call.consumed == 5
    assert call.sent <= source.asked


@pytest.mark.parametrize("packets", [None, 3])
def test_a_handler_that_closes_its_flow_ends_the_generator(connect, packets):
    """
    Before the result, whether the generator waits for credit or would have ended by itself.
    """
    closed = threading.Event()

    def handler(flow, client):
        next(flow)
        flow.close()
        assert closed.wait(WAIT)
        client.message({"closed": True})
        return "done"

    def source():
        try:
            for n in itertools.count() if packets is None else range(packets):
                yield {"n": n}
        finally:
            closed.set()

    *_, message, last = connect(handler).call(source())
    assert message == {"closed": True}
    assert last == {"type": "success", "message": "done"}


def test_a_source_whose_finally_raises_stops_the_call(connect):
    """
    Closing the generator after an early answer is user code: what it raises is the caller's.
    """

    def source():
        try:
            while True:
                yield {"n": 1}
        finally:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        connect(lambda flow, client: "early").send(source())


def test_open_gives_a_conversation(connect, recorder):
    """
    A flow that is sent packet by packet; its header has left already.
    """
    with connect(recorder).open(header={"h": 1}) as flow:
        assert recorder.packets.get(timeout=WAIT) == {"h": 1}
        flow.send({"n": 1})
        assert flow.end() == 2


def test_an_interrupted_open_leaves_nothing(connect, monkeypatch):
    """
    A signal handler that raises while a conversation opens leaves nothing open.
    """

    def interrupted(_):
        raise KeyboardInterrupt

    client = connect(count)
    monkeypatch.setattr(link_module.Link, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.open()


# Without waiting


def test_a_client_that_does_not_wait_returns_when_the_server_has_everything(connect, recorder):
    """
    The call ends though the handler does not, and the handler then finishes undisturbed.
    """
    go_on = threading.Event()

    def handler(flow, client):
        assert go_on.wait(WAIT)
        return recorder(flow, client)

    call = connect(handler, waits=False).call(Source(500))
    assert list(call) == [True] * 500
    go_on.set()
    assert recorder.ending() is None
    assert recorder.taken() == numbers(*range(500))


def test_a_client_that_does_not_wait_still_gets_what_has_come(connect):
    """
    Messages, and a failure, that come before the flow is at its end are not lost.
    """

    def handler(flow, client):
        client.message(next(flow))
        client.error("no more")

    seen = threading.Event()

    def source():
        yield {"n": 1}
        assert seen.wait(WAIT)
        yield from itertools.repeat({"n": 2})

    client = connect(handler, waits=False)
    client.add_listener("message_received", lambda _: seen.set())
    got = []

    def keep_reading():
        for value in client.call(source()):
            if value is not True:
                got.append(value)
            else:
                # The message may come behind the True, while nobody looks for it.
                seen.set()

    with pytest.raises(ServerError, match="no more"):
        keep_reading()
    assert got == [{"n": 1}]


def test_messages_without_end_do_not_hold_a_client_that_does_not_wait(connect):
    """
    What had come when the server had everything is yielded, and no more is waited for.
    """
    enough = threading.Event()

    def handler(flow, client):
        for _ in flow:
            pass
        while not enough.is_set():
            client.message({"a": 1})

    values = list(connect(handler, waits=False).call(numbers(1)))
    enough.set()
    assert values[0] is True


# Listeners


def test_listeners_hear_by_the_type_of_the_packet(connect):
    """
    message_received hears of every message; appinfo and other by type; success of the result.
    """

    def handler(flow, client):
        for packet in flow:
            client.message(packet)
        return "done"

    client = connect(handler)
    heard = []
    for event in ("message_received", "appinfo", "success", "failure", "other"):
        client.add_listener(event, lambda packet, event=event: heard.append((event, packet.type)))
    client.send([{"type": "appinfo"}, {"type": "info"}])
    assert heard == [
        ("message_received", "appinfo"),
        ("appinfo", "appinfo"),
        ("message_received", "info"),
        ("other", "info"),
        ("success", "success"),
    ]


def test_listeners_hear_of_failures(connect, logged_errors):
    """
    The failure's packet names the error that the call raises.
    """

    def handler(flow, client):
        raise KeyError("x")

    client = connect(handler)
    heard = []
    client.add_listener("failure", heard.append)
    with pytest.raises(ServerError) as caught:
        client.send([])
    assert heard == [{"type": "failure", "error": "ServerError", "message": str(caught.value)}]
    logged_errors.claim(KeyError)


def test_a_message_may_have_any_type(connect):
    """
    A type that is no str, and a message that poses as the result, are for their listeners too.
    """

    def handler(flow, client):
        client.message({"type": [1]})
        client.message({"type": "success", "message": "not yet"})

    client = connect(handler)
    heard = []
    client.add_listener("other", heard.append)
    client.add_listener("message_received", heard.append)
    client.send([])
    assert [packet["type"] for packet in heard] == [[1], [1], "success"]


def test_a_removed_listener_hears_nothing(connect):
    """
    remove_listener undoes add_listener.
    """
    client = connect(count)
    heard: list[Packet] = []
    client.add_listener("success", heard.append)
    client.remove_listener("success", heard.append)
    client.send([])
    assert heard == []


@pytest.mark.parametrize("seconds", [1e7, 1e18, 1e300])
def test_limits_that_are_never_reached_are_no_harm(serve, seconds):
    """
    No system is asked to wait for longer than it can count.
    """
    names = {field.name for field in fields(Limits) if type(field.default) is float}
    values: dict[str, Any] = dict.fromkeys(names - {"min_ping_interval"}, seconds)
    limits = Limits(**values)
    port = serve(count, limits=limits, resume=ResumePolicy(ttl=seconds))
    client = StationClient("127.0.0.1", port, limits=limits)
    for resume in (False, True):
        assert client.send([{}], timeout=seconds, resume=resume) == 1


@pytest.mark.parametrize("limits", [5, {}, "tight"])
def test_limits_of_another_type_are_refused(limits):
    """
    TypeError where the client is made.
    """
    with pytest.raises(TypeError, match="takes Limits"):
        StationClient("127.0.0.1", limits=limits)


def test_a_listener_that_raises_stops_the_call_and_the_handler_is_told(connect, recorder):
    """
    The caller gets the listener's exception, the handler ClientError.
    """

    def handler(flow, client):
        client.message({"a": 1})
        return recorder(flow, client)

    def listener(_):
        raise mine

    mine = KeyError("mine")
    client = connect(handler)
    client.add_listener("message_received", listener)
    source = Source()
    with pytest.raises(KeyError) as caught:
        client.send(source)
    assert caught.value is mine
    assert source.finals == 1
    ending = recorder.ending()
    assert isinstance(ending, ClientError)
    assert ending.error_class == "KeyError"


# Slow and fast sources


def test_every_packet_of_a_slow_source_leaves_at_once(connect, recorder):
    """
    Each packet is with the handler before the source gives the next.
    """

    def source():
        for number in range(20):
            yield {"n": number}
            assert recorder.packets.get(timeout=WAIT) == {"n": number}

    assert connect(recorder).send(source()) == 20


def turns(monkeypatch, connect, seconds: float) -> int:
    """
    Have a turn last so long; return how often a call of a hundred packets gives way.
    """
    given = Counter[str]()
    monkeypatch.setattr("pyf.station.client.TURN", seconds)
    monkeypatch.setattr(link_module.Link, "give_way", lambda _: given.update(["turns"]))
    assert connect(count).send({"n": n} for n in range(100)) == 100
    return given["turns"]


def test_a_call_whose_turn_is_over_gives_way_behind_each_burst(connect, monkeypatch):
    """
    Bursts grow: there are a few, and not as many as packets.
    """
    assert 2 <= turns(monkeypatch, connect, -1.0) < 50


def test_a_slow_source_gives_way_to_nobody(connect, monkeypatch):
    """
    It is not busy.
    """
    monkeypatch.setattr("pyf.station.client.next_burst", lambda *_: 1)
    assert turns(monkeypatch, connect, -1.0) == 0


def test_a_call_gives_way_to_nobody_before_its_turn_is_over(connect, monkeypatch):
    assert turns(monkeypatch, connect, WAIT) == 0


def test_a_burst_that_stops_arrives_though_the_source_blocks(connect, recorder):
    """
    A source may stop anywhere: after the first packet, in a burst, after a pause, and again.
    """

    def source():
        number = itertools.count()
        for burst in (1, 1, 2, 50, 1, 3, 700, 1, 1, 7, 2000, 2, 1):
            for _ in range(burst):
                yield {"n": next(number)}
            for _ in range(burst):
                recorder.packets.get(timeout=WAIT)

    assert connect(recorder).send(source()) == sum((1, 1, 2, 50, 1, 3, 700, 1, 1, 7, 2000, 2, 1))


def test_a_header_arrives_though_the_source_gives_nothing(connect):
    """
    With header= the handler starts before there is a packet.
    """
    started = threading.Event()

    def handler(flow, client):
        started.set()
        return next(flow)

    def source():
        assert started.wait(WAIT)
        yield {"n": 1}

    assert connect(handler).send(source(), header={"h": 1}) == {"h": 1}


def test_a_packet_arrives_though_the_loops_body_blocks(connect, recorder):
    """
    The packet that a True stands for has left: what the loop does with it does not matter.
    """
    call = connect(recorder).call(numbers(1, 2))
    assert next(call) is True
    assert recorder.packets.get(timeout=WAIT) == {"n": 1}
    assert next(call) is True
    assert recorder.packets.get(timeout=WAIT) == {"n": 2}
    assert next(call) == {"type": "success", "message": 2}


def test_a_packet_may_be_changed_and_yielded_again(connect, recorder):
    """
    Each packet arrives as it was when it was yielded, nested lists and dicts included.
    """

    def source():
        packet = {"n": 0, "list": [], "map": {}}
        for number in range(1000):
            packet["n"] = number
            packet["list"] = [number]
            packet["map"]["inner"] = number
            yield packet

    connect(recorder).send(source())
    assert recorder.taken() == [
        {"n": number, "list": [number], "map": {"inner": number}} for number in range(1000)
    ]


def test_a_list_that_packets_share_may_grow(connect, recorder):
    """
    A packet holds what its list held when it was yielded.
    """

    def source():
        shared: list[int] = []
        for number in range(100):
            shared.append(number)
            yield {"list": shared}

    connect(recorder).send(source())
    assert recorder.taken() == [{"list": list(range(size))} for size in range(1, 101)]


def test_large_packets_are_sent_one_by_one(connect):
    """
    A batch holds no more than its bytes allow, however fast the source.
    """

    def handler(flow, client):
        return sum(len(packet.data) for packet in flow)

    flow = ({"data": bytes(100_000)} for _ in range(50))
    assert connect(handler).send(flow) == 5_000_000


def test_messages_for_every_packet_cannot_deadlock(connect):
    """
    The client reads while it writes, with one thread of the user's.
    """

    def handler(flow, client):
        for packet in flow:
            client.message(packet)
            client.message(packet)

    payload = "x" * 500
    got = connect(handler).call({"n": n, "text": payload} for n in range(5000))
    kinds = Counter(type(value) for value in got)
    assert kinds == {bool: 5000, Packet: 10_001}


def test_memory_stays_within_the_windows(connect):
    """
    A client whose loop is slow keeps no more messages than one window.
    """

    def handler(flow, client):
        for _ in range(3000):
            client.message({"data": bytes(1000)})

    client = connect(handler)
    client.limits = Limits(window_bytes=64 * 1024)
    tracemalloc.start()
    try:
        assert sum(1 for _ in client.stream([])) == 3001
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


# The user's own failures


@pytest.mark.parametrize("at", [0, 1, 2, 3, 10, 100, 1000])
def test_what_the_generator_raises_comes_back_as_it_is(connect, recorder, at):
    """
    The caller gets the very same exception, behind one True for each packet before it; the
    handler gets those packets, then ClientError.
    """
    mine = ValueError("mine")

    def source():
        yield from numbers(*range(at))
        raise mine

    trues = []
    call = connect(recorder).call(source(), header={"h": 1})
    with pytest.raises(ValueError, match="mine") as caught:
        trues.extend(call)
    assert caught.value is mine
    assert [entry.name for entry in caught.traceback][-1] == "source"
    ending = recorder.ending()
    assert isinstance(ending, ClientError)
    assert (ending.error_class, ending.sent) == ("ValueError", at)
    assert recorder.taken() == [{"h": 1}, *numbers(*range(at))]
    assert call.sent == at


def test_one_true_is_yielded_for_each_packet_before_a_failure(connect, recorder):
    """
    How packets were batched makes no difference to the loop.
    """

    def source():
        yield from numbers(*range(100))
        raise ValueError

    trues = []

    def loop():
        for value in connect(recorder).call(source()):
            trues.append(value)  # noqa: PERF402 - one by one

    with pytest.raises(ValueError):
        loop()
    assert trues == [True] * 100


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit, SystemExit])
def test_what_is_no_exception_comes_back_too(connect, recorder, kind):
    """
    KeyboardInterrupt and GeneratorExit of the generator's are told like any other failure.
    """
    mine = kind()

    def source():
        yield from numbers(1, 2, 3)
        raise mine

    with pytest.raises(kind) as caught:
        connect(recorder).send(source())
    assert caught.value is mine
    ending = recorder.ending()
    assert isinstance(ending, ClientError)
    assert (ending.error_class, ending.sent) == (kind.__name__, 3)
    assert recorder.taken() == numbers(1, 2, 3)


@pytest.mark.parametrize(
    ("bad", "kind"), [({"x": object()}, UnsupportedValue), ("text", TypeError), (None, TypeError)]
)
@pytest.mark.parametrize("at", [0, 1, 5, 100])
def test_a_packet_that_cannot_travel_leaves_those_before_it(connect, recorder, bad, kind, at):
    """
    The packets before it arrive, nothing of it does, and the generator is closed.
    """
    finals = []

    def source():
        try:
            yield from numbers(*range(at))
            yield bad
        finally:
            finals.append(1)

    with pytest.raises(kind):
        connect(recorder).send(source())
    ending = recorder.ending()
    assert isinstance(ending, ClientError)
    assert (ending.error_class, ending.sent) == (kind.__name__, at)
    assert recorder.taken() == numbers(*range(at))
    assert finals == [1]


def test_a_packet_larger_than_the_server_takes(connect, recorder):
    """
    PacketTooLarge says size, limit and option; those before it arrive.
    """
    flow = [*numbers(1, 2), {"data": bytes(100_000)}, *numbers(3)]
    call = connect(recorder, limits=Limits(max_packet=70_000)).call(flow)
    trues = []
    with pytest.raises(PacketTooLarge) as caught:
        trues.extend(call)
    assert (caught.value.limit, caught.value.option) == (70_000, "max_packet")
    assert 100_000 < caught.value.size < 100_020
    ending = recorder.ending()
    assert isinstance(ending, ClientError)
    assert (ending.error_class, ending.sent) == ("PacketTooLarge", 2)
    assert recorder.taken() == numbers(1, 2)


def test_a_header_that_is_too_large_opens_no_flow(connect, recorder):
    """
    PacketTooLarge, and no handler starts.
    """
    source = Source()
    with pytest.raises(PacketTooLarge):
        connect(recorder).send(source, header={"data": bytes(100_000)})
    assert source.asked == 0
    assert recorder.endings.empty()


# Giving up


def leave_by_break(client, source):
    for _ in client.call(source):
        break


def leave_by_close(client, source):
    call = client.call(source)
    next(call)
    call.close()
    call.close()


def leave_by_with(client, source):
    with client.call(source) as call:
        next(call)


def leave_by_dropping(client, source):
    next(client.call(source))


def leave_by_exception(client, source):
    with suppress(ZeroDivisionError):
        for _ in client.call(source):
            _ = 1 / 0
    gc.collect()


def leave_by_garbage_collection(client, source):
    cycle: list[Any] = [client.call(source)]
    cycle.append(cycle)
    next(cycle[0])
    dropped = weakref.ref(cycle[0])
    del cycle
    gc.collect()
    assert dropped() is None


def leave_in_another_thread(client, source):
    call = client.call(source)
    next(call)
    thread = threading.Thread(target=call.close)
    thread.start()
    thread.join(WAIT)


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_break,
        leave_by_close,
        leave_by_with,
        leave_by_dropping,
        leave_by_exception,
        leave_by_garbage_collection,
        leave_in_another_thread,
    ],
)
def test_giving_up_closes_the_generator_and_cancels_the_flow(connect, recorder, leave):
    """
    However a call is left: the source's finally runs once, the handler gets FlowCancelled.
    """
    source = Source()
    leave(connect(recorder), source)
    assert source.finals == 1
    assert isinstance(recorder.ending(), FlowCancelled)


def test_the_generators_finally_runs_before_the_server_has_answered(connect, monkeypatch):
    """
    A server that does not hear holds up nobody's finally.
    """
    finished = threading.Event()

    def handler(flow, client):
        for _ in flow:
            pass

    def source():
        try:
            while True:
                yield {"n": 1}
        finally:
            finished.set()

    lingered = link_module.Link._linger

    def linger(self):
        assert finished.is_set()
        lingered(self)

    monkeypatch.setattr(link_module.Link, "_linger", linger)
    leave_by_break(connect(handler), source())


def test_a_keyboard_interrupt_in_the_call_cancels_the_flow(connect, recorder, monkeypatch):
    """
    Ctrl-C that strikes the client itself is no failure of the generator.
    """

    def interrupted(_):
        raise KeyboardInterrupt

    call = connect(recorder).call(Source())
    next(call)
    monkeypatch.setattr(link_module.Link, "check_deadline", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(call)
    assert isinstance(recorder.ending(), FlowCancelled)


# The server's failures


@pytest.mark.parametrize("at", [0, 1, 2, 100])
def test_a_handler_that_raises_closes_the_generator_first(connect, logged_errors, at):
    """
    Before the caller sees ServerError, the source's finally has run; the error says how many
    packets were sent and consumed.
    """

    def handler(flow, client):
        for index, _ in enumerate(flow, 1):
            if index == at + 1:
                raise KeyError("x")

    source = Source()
    call = connect(handler).call(source)

    def loop():
        for _ in call:
            assert source.finals == 0

    with pytest.raises(ServerError) as caught:
        loop()
    assert source.finals == 1
    error = caught.value
    assert (error.code, error.error_class) == ("handler_failed", "KeyError")
    assert error.message is None
    assert error.error_id
    assert error.consumed == call.consumed == at + 1
    assert error.sent == call.sent >= error.consumed
    logged_errors.claim(KeyError)


def test_a_handler_that_reports_an_error(connect):
    """
    client.error(text) is a ServerError with that text.
    """

    def handler(flow, client):
        client.error("not today")

    with pytest.raises(ServerError, match="not today") as caught:
        connect(handler).send([])
    assert caught.value.code == "handler_error"


def test_a_busy_server_refuses_the_flow(connect):
    """
    FlowRefused: no handler has seen the flow, and its generator is closed.
    """
    started, go_on = threading.Event(), threading.Event()

    def handler(flow, client):
        started.set()
        assert go_on.wait(WAIT)

    client = connect(handler, max_handlers=1)
    first = client.call(Source())
    next(first)
    assert started.wait(WAIT)
    source = Source()
    with pytest.raises(FlowRefused) as caught:
        client.send(source)
    assert caught.value.code == "busy"
    assert source.finals == 1
    go_on.set()
    first.close()


def test_a_server_with_too_many_clients_refuses_the_flow(connect, recorder):
    """
    A connection over max_clients is told so before it is closed.
    """
    client = connect(recorder, max_clients=1)
    first = client.call(Source())
    next(first)
    recorder.packets.get(timeout=WAIT)
    with pytest.raises(FlowRefused) as caught:
        client.send([])
    assert caught.value.code == "busy"
    first.close()


def test_the_timeout_bounds_the_call(connect, recorder):
    """
    DeadlineExceeded at the caller, the generator closed, and the handler told.
    """
    source = Source()
    with pytest.raises(DeadlineExceeded) as caught:
        connect(recorder).send(source, timeout=0.1)
    assert caught.value.timeout == 0.1
    assert source.finals == 1
    assert isinstance(recorder.ending(), FlowCancelled | DeadlineExceeded)


def test_the_timeout_bounds_the_wait_for_the_result(connect):
    """
    A handler that goes on after the END holds the caller no longer than that.
    """
    go_on = threading.Event()

    def handler(flow, client):
        for _ in flow:
            pass
        assert go_on.wait(WAIT)

    with pytest.raises(DeadlineExceeded):
        connect(handler).send([], timeout=0.1)
    go_on.set()


def test_the_timeout_bounds_a_wait_for_credit(connect):
    """
    A handler that does not read holds the caller no longer than that.
    """
    go_on = threading.Event()

    def handler(flow, client):
        assert go_on.wait(WAIT)

    with pytest.raises(DeadlineExceeded):
        connect(handler).send(Source(), timeout=0.2)
    go_on.set()


def test_a_handler_that_does_not_read_stops_the_generator(connect):
    """
    Back-pressure: the source is asked for no more than a window.
    """
    go_on = threading.Event()

    def handler(flow, client):
        assert go_on.wait(WAIT)
        return "enough"

    source = Source()
    call = connect(handler, limits=Limits(window_packets=1024)).call(source, timeout=0.5)
    with pytest.raises(DeadlineExceeded):
        list(call)
    assert call.sent == 1024
    assert source.asked == 1024
    go_on.set()


# The result and the keeper, while user code runs


def test_a_result_that_comes_while_the_generator_blocks_ends_the_call(connect, monkeypatch):
    """
    The generator cannot be interrupted; what it gives then is not sent, and nothing more asked.
    """
    blocking, answered = threading.Event(), threading.Event()
    handle = link_module.Link._handle

    def handle_event(self, event):
        handle(self, event)
        if self.result is not None:
            answered.set()

    def handler(flow, client):
        next(flow)
        assert blocking.wait(WAIT)
        return "early"

    def source():
        yield {"n": 1}
        blocking.set()
        assert answered.wait(WAIT)
        yield {"n": 2}
        raise AssertionError("asked for more")

    monkeypatch.setattr(link_module.Link, "_handle", handle_event)
    call = connect(handler).call(source())
    assert list(call) == [True, {"type": "success", "message": "early"}]
    assert call.sent == 1


def test_messages_are_credited_while_the_generator_blocks(connect, recorder):
    """
    What the server sends meanwhile is taken off the socket.
    """

    def handler(flow, client):
        for number in range(100):
            client.message({"n": number})
        recorder.packets.put(Packet())
        for _ in flow:
            pass

    def source():
        recorder.packets.get(timeout=WAIT)
        yield {"n": 1}

    assert len(list(connect(handler).stream(source(), header={"h": 1}))) == 101


# Threads, and what is left behind


def test_one_client_serves_several_threads(connect):
    """
    Each thread has calls of its own; none sees another's packets.
    """
    client = connect(echo)
    results: Queue[bool] = Queue()

    def run(thread):
        flow = [{"thread": thread, "n": n} for n in range(300)]
        results.put(list(client.stream(flow))[:-1] == flow)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    assert [results.get(timeout=WAIT) for _ in threads] == [True] * 8
    for thread in threads:
        thread.join(WAIT)


def test_two_calls_of_one_thread_take_turns(connect):
    """
    Calls are independent: one may be iterated while another is open.
    """
    client = connect(count)
    first, second = client.call(Source(50)), client.call(Source(70))
    values = list(itertools.zip_longest(first, second))
    assert values[50][0] == {"type": "success", "message": 50}
    assert values[70][1] == {"type": "success", "message": 70}


def keepers() -> int:
    return sum(thread.name == "pyf.station-keeper" for thread in threading.enumerate())


def test_nothing_is_left_behind(connect, logged_errors):
    """
    After each kind of ending, the keeper has ended before the caller goes on.
    """

    def handler(flow, client):
        if flow.header and flow.header.get("fail"):
            raise KeyError
        return count(flow, client)

    client = connect(handler)
    before = keepers()
    client.send([])
    assert keepers() == before
    leave_by_break(client, Source())
    assert keepers() == before
    with pytest.raises(ServerError):
        client.send([], header={"fail": True})
    assert keepers() == before
    list(connect(count, waits=False).call(Source(5)))
    assert keepers() == before
    logged_errors.claim(KeyError)
