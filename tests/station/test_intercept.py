"""Interceptors on either side: what they see, what they may change, and that they hide nothing."""

import threading
from contextlib import contextmanager, suppress

import pytest

from pyf.station import (
    ConnectFailed,
    FlowCancelled,
    FlowServer,
    ResumePolicy,
    ServerError,
    SQLiteStore,
    StationClient,
)
from pyf.station.handlers import HandlerRunner
from pyf.transport import ClientError, Packet


class Spy:
    """
    An interceptor that notes what it sees, and does to the flow what it is told to.
    """

    def __init__(self, *changes):
        self.changes = changes
        self.calls = []
        self.errors = []
        self.over = threading.Event()

    @contextmanager
    def __call__(self, call):
        self.calls.append(call)
        for change in self.changes:
            change(call)
        try:
            yield
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.over.set()

    @property
    def call(self):
        (call,) = self.calls
        return call


def in_thread(flow, client):
    for packet in flow:
        client.message(packet)
    return "done"


def generator(flow, client):
    yield from flow
    return "done"


async def coroutine(flow, client):
    async for packet in flow:
        await client.message(packet)
    return "done"


class ByClass:
    def __init__(self, flow, client):
        self.flow, self.client = flow, client

    def handle_data(self):
        return in_thread(self.flow, self.client)


KINDS = [in_thread, generator, coroutine, ByClass]


def add(name):
    return lambda packet: packet | {"seen": [*packet.get("seen", []), name]}


def drop(number):
    return lambda packet: None if packet.get("n") == number else packet


@pytest.fixture
def client(serve):
    def make(handler=in_thread, interceptors=(), server=()):
        port = serve(handler, interceptors=server)
        return StationClient("127.0.0.1", port, True, interceptors=interceptors)

    return make


@pytest.fixture
def any_client(connect, serve):
    def make(handler, interceptors):
        return connect("127.0.0.1", serve(handler), True, interceptors=interceptors)

    return make


def messages(client, flow, **options):
    return list(client.stream(flow, **options))[:-1]


@pytest.mark.parametrize("handler", KINDS)
def test_a_server_interceptor_sees_header_counts_and_outcome(client, handler):
    """
    For every kind of handler.
    """
    spy = Spy()
    call = client(handler, server=[spy])
    assert call.send([{"n": 1}], header={"h": 1}) == "done"
    assert spy.over.wait(10)
    assert (spy.call.side, spy.call.header, spy.errors) == ("server", Packet(h=1), [])
    assert (spy.call.status, spy.call.packets, spy.call.peer.host) == ("success", 1, "127.0.0.1")
    assert spy.call.identity is None


@pytest.mark.parametrize("handler", KINDS)
def test_packets_and_messages_can_be_changed_and_dropped_at_the_server(client, handler):
    """
    The first interceptor is the outermost: packets pass it first, messages last.
    """

    def change(name):
        def both(call):
            call.map_packets(drop(1))
            call.map_packets(add(f"in {name}"))
            call.map_messages(drop(2))
            call.map_messages(add(f"out {name}"))

        return both

    call = client(handler, server=[Spy(change("a")), Spy(change("b"))])
    flow = ({"n": n} for n in range(4))
    zero, three = messages(call, flow)
    assert (zero.n, three.n) == (0, 3)
    assert three.seen == ["in a", "in b", "out b", "out a"]


def test_the_iterator_can_be_wrapped_at_the_server(client):
    """
    By a generator for a handler in a thread, by an async one for a coroutine.
    """

    def twice(packets):
        for packet in packets:
            yield packet
            yield packet

    async def twice_awaited(packets):
        async for packet in packets:
            yield packet
            yield packet

    spy = Spy(lambda call: call.wrap_packets(twice))
    assert len(messages(client(in_thread, server=[spy]), [{"n": 1}])) == 2
    spy = Spy(lambda call: call.wrap_packets(twice_awaited))
    assert len(messages(client(coroutine, server=[spy]), [{"n": 1}])) == 2


def pairs(messages):
    held = []
    for message in messages:
        held.append(message["n"])
        if len(held) == 2:
            yield {"n": held.copy()}
            held.clear()
    yield {"left": held}


async def async_pairs(messages):
    held = []
    async for message in messages:
        held.append(message["n"])
        if len(held) == 2:
            yield {"n": held.copy()}
            held.clear()
    yield {"left": held}


@pytest.mark.parametrize("handler", KINDS)
def test_the_messages_of_a_handler_can_be_wrapped(client, handler):
    """
    They leave as they come out, the last ones before the result; outside it, maps and others come.
    """
    wrap = async_pairs if handler is coroutine else pairs
    inner = Spy(lambda call: call.map_messages(drop(1)))
    middle = Spy(lambda call: call.wrap_messages(wrap))
    outer = Spy(lambda call: call.map_messages(add("outer")))
    call = client(handler, server=[outer, middle, inner])
    found = messages(call, ({"n": n} for n in range(6)))
    expected = [{"n": [0, 2]}, {"n": [3, 4]}, {"left": [5]}]
    assert found == [each | {"seen": ["outer"]} for each in expected]
    assert inner.over.wait(10)
    assert inner.call.status == "success"


@pytest.mark.parametrize("handler", [in_thread, coroutine])
def test_what_wraps_messages_fails_the_handler_where_it_fails(client, handler, logged_errors):
    """
    As the handler sends one: it may hear of that.
    """

    def fails(messages):
        for _ in messages:
            raise LookupError
        yield {}

    async def fails_async(messages):
        async for _ in messages:
            raise LookupError
        yield {}

    spy = Spy(lambda call: call.wrap_messages(fails_async if handler is coroutine else fails))
    with pytest.raises(ServerError, match="LookupError"):
        client(handler, server=[spy]).send([{"n": 1}], header={})
    logged_errors.claim(LookupError)


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_what_wraps_messages_is_closed_with_the_flow(client, kind):
    """
    Also where the handler fails, or its client gives up.
    """
    closed = threading.Event()

    def wrap(messages):
        try:
            yield from messages
        finally:
            closed.set()

    async def async_wrap(messages):
        try:
            async for message in messages:
                yield message
        finally:
            closed.set()

    threaded = kind == "thread"
    spy = Spy(lambda call: call.wrap_messages(wrap if threaded else async_wrap))
    with client(in_thread if threaded else coroutine, server=[spy]).open({}) as flow:
        assert flow.receive(10) == {}
        assert not closed.is_set()
    assert closed.wait(10)
    assert spy.over.wait(10)


def test_an_intercepted_flow_is_all_that_a_flow_is(client):
    """
    ``next``, the header, the counts and ``close`` are there, and so is the next packet.
    """

    def handler(flow, client):
        assert flow.header == Packet(h=1)
        assert flow.next() == next(flow) == {"n": 0}
        assert flow.consumed == 1
        flow.close()
        return "done"

    async def awaited(flow, client):
        assert await flow.next() == {"h": 1}
        assert flow.header == Packet(h=1)
        return "done"

    twice = Spy(
        lambda call: call.wrap_packets(lambda flow: (each for p in flow for each in (p, p)))
    )
    call = client(
        lambda flow, client: (next(flow), next(flow)) and handler(flow, client), (), [twice]
    )
    assert call.send([{"n": 0}], header={"h": 1}) == "done"
    call = client(awaited, (), [Spy(lambda call: call.map_packets(dict))])
    assert call.send([{"n": 0}], header={"h": 1}) == "done"


@pytest.mark.parametrize("handler", [in_thread, coroutine])
def test_a_failure_after_the_first_packet_is_seen_at_the_server(client, handler):
    """
    Of the client's generator here: the handler hears of it, and so does what is around it.
    """
    spy = Spy()

    def fails():
        yield {"n": 1}
        raise KeyError("mine")

    with pytest.raises(KeyError):
        client(handler, server=[spy]).send(fails())
    assert spy.over.wait(10)
    assert isinstance(spy.errors[0], ClientError)
    assert spy.errors[0].error_class == "KeyError"


def test_what_a_handler_lets_pass_is_seen(peer):
    """
    A handler that returns quietly when its client has given up does not hide that.
    """
    spy = Spy()

    async def quiet(flow, client):
        try:
            async for _ in flow:
                pass
        except FlowCancelled:
            return

    each = peer(quiet, interceptors=[spy])
    flow = each.open({"a": 1})
    each.machine.cancel(flow)
    each.pump()
    assert isinstance(spy.errors[0], FlowCancelled)
    assert spy.call.status is None


def test_a_handler_keeps_its_place_until_its_interceptors_have_ended(peer):
    """
    They run behind the answer, in its thread: another handler would be one too many.
    """
    go_on = threading.Event()

    @contextmanager
    def slow(call):
        yield
        go_on.wait(10)

    each = peer(in_thread, max_handlers=1, interceptors=[slow])
    assert each.call({"n": 1}).value == "done"
    assert each.server.handlers == 1
    assert each.result(each.open()).status == "refused"
    go_on.set()
    each.returned()


def test_an_error_that_a_handler_reports_is_its_status(client):
    """
    No exception then: the handler has spoken.
    """
    spy, seen = Spy(), Spy()
    with pytest.raises(ServerError):
        client(lambda _, client: client.error("no"), [seen], [spy]).send([{"a": 1}])
    assert spy.over.wait(10)
    assert (spy.call.status, spy.errors) == ("error", [])
    assert (seen.call.status, type(seen.errors[0])) == ("error", ServerError)


def test_no_interceptor_can_swallow_a_failure(client, logged_errors):
    """
    On neither side: the caller gets the error, whatever is around it.
    """

    @contextmanager
    def swallow(call):
        with suppress(Exception):
            yield

    def fails(flow, client):
        raise ValueError("no")

    with pytest.raises(ServerError, match="ValueError"):
        client(fails, [swallow], [swallow]).send([{"a": 1}])
    logged_errors.claim(ValueError)


def test_an_interceptor_that_refuses_keeps_the_handler_from_running(client, logged_errors):
    """
    What it raises is the handler's failure to the client; those around it see that.
    """
    ran, outer = [], Spy()

    @contextmanager
    def refuse(call):
        if call.header.get("key") != "right":
            raise PermissionError("who are you?")
        yield

    call = client(lambda flow, client: ran.append(1), server=[outer, refuse])
    with pytest.raises(ServerError, match="PermissionError"):
        call.send([{"a": 1}], header={"key": "wrong"})
    assert (ran, type(outer.errors[0])) == ([], PermissionError)
    call.send([{"a": 1}], header={"key": "right"})
    assert ran == [1]
    logged_errors.claim(PermissionError)


# At the client


def test_a_client_interceptor_sees_header_counts_and_outcome(any_client):
    """
    Nothing happens before the call is iterated, and the value is there in the end.
    """
    spy = Spy()
    call = any_client(in_thread, [spy]).call([{"n": 1}], header={"h": 1})
    assert spy.calls == []
    assert [*call][-1] == {"type": "success", "message": "done"}
    assert (spy.call.side, spy.call.header, spy.call.peer[0]) == ("client", {"h": 1}, "127.0.0.1")
    assert (spy.call.packets, spy.call.messages) == (1, 2)
    assert (spy.call.status, spy.call.value, spy.errors) == ("success", "done", [])


@pytest.mark.parametrize("header", [None, {"n": 0}])
def test_a_client_interceptor_may_change_the_header(any_client, header):
    """
    Also one that is the flow's first packet; the caller's own dict stays as it is.
    """
    spy = Spy(lambda call: call.map_header(add("me")))
    first, second = messages(
        any_client(in_thread, [spy]), [{"n": 0}, {"n": 1}][bool(header) :], header=header
    )
    assert first == {"n": 0, "seen": ["me"]}
    assert second == {"n": 1}
    assert header in (None, {"n": 0})


def test_packets_and_messages_can_be_changed_and_dropped_at_the_client(any_client):
    """
    As at the server; the success is no message, and can't be lost.
    """

    def change(name):
        def both(call):
            call.map_packets(drop(1))
            call.map_packets(add(f"out {name}"))
            call.map_messages(drop(2))
            call.map_messages(add(f"in {name}"))

        return both

    call = any_client(in_thread, [Spy(change("a")), Spy(change("b"))])
    *values, last = call.call({"n": n} for n in range(4))
    assert last == {"type": "success", "message": "done"}
    assert values.count(True) == 3
    zero, three = (value for value in values if value is not True)
    assert zero.n == 0
    assert three.seen == ["out a", "out b", "in b", "in a"]


def test_both_iterators_can_be_wrapped_at_the_client(client):
    """
    That of the flow, and that of what the call yields.
    """

    def change(call):
        call.wrap_packets(lambda packets: ({"n": 7} for _ in packets))
        call.wrap_messages(lambda values: (value for value in values if value is not True))

    message, last = client(in_thread, [Spy(change)]).call([{"n": 1}])
    assert (message, last.message) == ({"n": 7}, "done")


@pytest.mark.parametrize("connect", ["asyncio", "Twisted"], indirect=True)
def test_both_iterators_can_be_wrapped_at_an_async_client(any_client):
    """
    What the call yields is an async iterator there, and the flow where it is one.
    """

    async def numbers():
        yield {"n": 1}

    async def sevens(packets):
        async for _ in packets:
            yield {"n": 7}

    async def without_true(values):
        async for value in values:
            if value is not True:
                yield value

    def change(call):
        call.map_packets(add("out"))
        call.wrap_packets(sevens)
        call.wrap_messages(without_true)

    message, last = any_client(in_thread, [Spy(change)]).call(numbers())
    assert (message, last.message) == ({"n": 7}, "done")


def test_a_wrapped_generator_is_closed(any_client):
    """
    When the call is given up, the user's own generator is, at once.
    """
    closed = []

    def flow():
        try:
            while True:
                yield {"n": 1}
        finally:
            closed.append(1)

    spy = Spy(lambda call: call.map_packets(dict))
    call = any_client(in_thread, [spy]).call(flow())
    next(call)
    call.close()
    assert closed == [1]
    assert isinstance(spy.errors[0], GeneratorExit)


def test_a_client_interceptor_sees_what_the_caller_gets(connect):
    """
    Here that there is no server.
    """
    spy = Spy()
    with pytest.raises(ConnectFailed) as caught:
        connect("127.0.0.1", 1, True, interceptors=[spy]).send([{"n": 1}])
    assert spy.errors == [caught.value]
    spy = Spy()
    client = connect("127.0.0.1", 1, True, interceptors=[spy])
    with pytest.raises(ConnectFailed) as caught, client.open({"n": 1}):
        pass
    assert spy.errors == [caught.value]


def test_a_conversation_is_intercepted(any_client):
    """
    Header, packets, messages and outcome; there are no iterators to wrap.
    """

    def change(call):
        call.map_header(add("header"))
        call.map_packets(drop(1))
        call.map_packets(add("out"))
        call.map_messages(drop(2))
        call.map_messages(add("in"))

    spy = Spy(change)
    with any_client(in_thread, [spy]).open({"n": 0}) as flow:
        for number in range(1, 4):
            flow.send({"n": number})
        assert flow.receive() == {"n": 0, "seen": ["header", "in"]}
        assert flow.receive(10) == {"n": 3, "seen": ["out", "in"]}
        assert flow.end() == "done"
        assert flow.receive() is None
    assert (spy.call.status, spy.call.value, spy.errors) == ("success", "done", [])
    assert (spy.call.packets, spy.call.messages) == (2, 3)
    with pytest.raises(TypeError, match="no iterator to wrap"):
        spy.call.wrap_packets(iter)


def test_the_end_of_a_conversation_is_seen(any_client):
    """
    Given up, left with an exception, or failed at the server: each as its error, once.
    """
    spy = Spy()
    call = any_client(lambda flow, client: client.error("no"), [spy])
    with call.open({"n": 0}) as flow:
        flow.cancel()
    assert [type(error) for error in spy.errors] == [FlowCancelled]
    with pytest.raises(KeyError), call.open({"n": 0}) as flow:
        raise KeyError("mine")
    assert type(spy.errors[1]) is KeyError
    with pytest.raises(ServerError), call.open({"n": 0}) as flow:
        flow.end()
    assert (type(spy.errors[2]), spy.calls[2].status) == (ServerError, "error")
    assert len(spy.errors) == 3


def test_without_interceptors_nothing_stands_between(peer):
    """
    The handler's flow and client are what they were, and the runner is the plain one.
    """
    assert type(FlowServer(in_thread).runner) is HandlerRunner
    each = peer(
        lambda flow, client: type(flow).__name__ + type(client).__name__, interceptors=[Spy()]
    )
    assert each.call({"a": 1}).value == "FlowSwiftClient"


@pytest.mark.parametrize("named", [False, True])
def test_a_flow_that_survives_is_intercepted(connect, serve, tmp_path, named):
    """
    Also one with a name, whose packets come from a function.
    """
    port = serve(in_thread, resume=ResumePolicy(store=SQLiteStore(tmp_path / "store")))
    spy = Spy(lambda call: call.map_packets(add("out")))
    client = connect("127.0.0.1", port, True, interceptors=[spy])
    flow, name = ((lambda start: [{"n": 1}][start:]), "it") if named else ([{"n": 1}], None)
    first, last = client.stream(flow, resume=True, flow_id=name)
    assert (first, last.message) == ({"n": 1, "seen": ["out"]}, "done")
    assert spy.call.status == "success"


@contextmanager
def around(call):
    yield


@pytest.mark.parametrize("wrong", [None, "name", around(None)])
def test_what_is_no_interceptor_is_refused_at_once(wrong):
    """
    When a client or a server is made: also what an interceptor returns, in place of itself.
    """
    for make in (
        lambda given: FlowServer(in_thread, interceptors=given),
        lambda given: StationClient("127.0.0.1", 1, interceptors=given),
    ):
        with pytest.raises(TypeError, match="an interceptor is called"):
            make([wrong])


def test_wrapping_what_goes_one_by_one_fails_before_the_flow_begins(client):
    """
    A conversation is not opened.
    """
    reached = []

    def handler(flow, client):
        reached.append(flow)

    wrap = Spy(lambda call: call.wrap_messages(iter))
    with (
        pytest.raises(TypeError, match="use map_messages"),
        client(handler, interceptors=[wrap]).open({"n": 1}),
    ):
        pass
    assert not reached
