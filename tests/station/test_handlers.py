"""What a handler is, told without running it, and what each kind's end means to the client."""

import functools
import threading
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from pyf.station.handlers import HandlerRunner, Kind

RAN = []
OTHER: Any = {"other": 1}


def function(flow, client=None):
    RAN.append("function")


def generator(flow, client):
    RAN.append("generator")
    yield {}


async def coroutine(flow, client):
    RAN.append("coroutine")


async def async_generator(flow, client):
    RAN.append("async generator")
    yield {}


class Base:
    def __init__(self, flow, client):
        RAN.append("class")


class Handler(Base):
    def handle_data(self):
        RAN.append("handle_data")

    def method(self, flow, client):
        RAN.append("method")

    async def async_method(self, flow, client):
        RAN.append("async method")


class GeneratorHandler(Base):
    def handle_data(self):
        RAN.append("handle_data")
        yield {}


class AsyncHandler(Base):
    async def handle_data(self):
        RAN.append("handle_data")


class AsyncGeneratorHandler(Base):
    async def handle_data(self):
        RAN.append("handle_data")
        yield {}


class StaticHandler(Base):
    @staticmethod
    def handle_data():
        RAN.append("handle_data")


class OptionHandler(Handler):
    def __init__(self, option, flow, client):
        super().__init__(flow, client)


class CallableObject:
    def __call__(self, flow, client):
        RAN.append("object")


class AsyncCallableObject:
    async def __call__(self, flow, client):
        RAN.append("async object")


def with_option(option, flow, client):
    RAN.append("with option")


async def async_with_option(option, flow, client):
    RAN.append("async with option")


def decorated(handler):
    @functools.wraps(handler)
    def wrapper(*args):
        return handler(*args)

    return wrapper


def given(value):
    """
    A decorator whose result takes another number of arguments than what it wraps.
    """

    def decorate(handler):
        @functools.wraps(handler)
        def wrapper(flow, client):
            return handler(value, flow, client)

        return wrapper

    return decorate


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (function, Kind.THREAD),
        (generator, Kind.THREAD),
        (coroutine, Kind.REACTOR),
        (async_generator, Kind.REACTOR),
        (Handler, Kind.THREAD),
        (GeneratorHandler, Kind.THREAD),
        (AsyncHandler, Kind.REACTOR),
        (AsyncGeneratorHandler, Kind.REACTOR),
        (StaticHandler, Kind.THREAD),
        (lambda flow, client: None, Kind.THREAD),
        (print, Kind.THREAD),
        (max, Kind.THREAD),  # it doesn't tell what it takes
        (CallableObject(), Kind.THREAD),
        (AsyncCallableObject(), Kind.REACTOR),
        (object.__new__(Handler).method, Kind.THREAD),
        (object.__new__(Handler).async_method, Kind.REACTOR),
        (functools.partial(with_option, 1), Kind.THREAD),
        (functools.partial(async_with_option, 1), Kind.REACTOR),
        (functools.partial(OptionHandler, 1), Kind.THREAD),
        (functools.partial(AsyncHandler), Kind.REACTOR),
        (decorated(function), Kind.THREAD),
        (decorated(coroutine), Kind.REACTOR),
        (decorated(async_generator), Kind.REACTOR),
        (decorated(functools.partial(async_with_option, 1)), Kind.REACTOR),
        (given(1)(async_with_option), Kind.REACTOR),
    ],
)
def test_a_handler_is_told_without_running_it(handler, kind):
    RAN.clear()
    assert HandlerRunner(handler).kind is kind
    assert not RAN


class NoHandleData:
    def __init__(self, flow, client):
        pass


class HandleDataIsData(NoHandleData):
    handle_data = 1


class HandleDataTakesMore(NoHandleData):
    def handle_data(self, more):
        pass


class TakesNothing:
    def handle_data(self):
        pass


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (None, "None cannot be called"),
        (Handler(None, None), "cannot be called"),
        ("handler", "'handler' cannot be called"),
        (NoHandleData, "NoHandleData has none"),
        (functools.partial(NoHandleData), "NoHandleData has none"),
        (HandleDataIsData, "HandleDataIsData has none"),
        (HandleDataTakesMore, "HandleDataTakesMore.handle_data takes .*'more'"),
        (TakesNothing, r"takes \(\)"),
        (lambda flow: None, r"takes \(flow\)"),
        (lambda flow, client, more: None, "missing a required argument: 'more'"),
        (lambda flow, *, client: None, "too many positional"),
        (functools.partial(function, 1, 2), "too many positional"),
        (functools.partial(*[function, 1, 2, 3]), "too many positional"),
        (functools.partial(function, **OTHER), "unexpected keyword"),
        (len, r"takes \(obj, /\)"),
    ],
)
def test_anything_else_is_refused_when_the_server_is_made(handler, why):
    with pytest.raises(TypeError, match=why):
        HandlerRunner(handler)


# What a handler of each kind says, seen by its client


def test_a_function_that_returns_has_succeeded_with_what_it_returned(peer):
    def handler(flow, client):
        return sum(packet["n"] for packet in flow)

    result = peer(handler).call({"n": 1}, {"n": 2})
    assert (result.status, result.value, result.consumed) == ("success", 3, 2)


def test_a_function_that_returns_nothing_has_succeeded_with_none(peer):
    result = peer(lambda flow, client: None).call()
    assert (result.status, result.value) == ("success", None)


def test_what_a_handler_returns_after_its_result_counts_for_nothing(peer):
    def handler(flow, client):
        list(flow)
        client.success("said")
        return "returned"

    assert peer(handler).call({}).value == "said"


def test_a_class_is_made_with_flow_and_client_before_it_handles_the_data(peer):
    class Summing:
        def __init__(self, flow, client):
            self.flow, self.client = flow, client
            self.start = client.header.start

        def handle_data(self):
            self.client.success(self.start + sum(packet.n for packet in self.flow))

    assert peer(Summing).call({"start": 10, "n": 1}, {"n": 2}).value == 13


def test_a_partial_of_a_class_is_a_class(peer):
    class Adding:
        def __init__(self, flow, client, start=0):
            self.flow, self.start = flow, start

        def handle_data(self):
            return self.start + sum(packet.n for packet in self.flow)

    assert peer(functools.partial(Adding, start=5)).call({"n": 1}).value == 6


def replies(flow, client):
    for packet in flow:
        yield {"twice": 2 * packet.n}
    return "the end"


class Replies:
    def __init__(self, flow, client):
        self.flow, self.client = flow, client

    def handle_data(self):
        return replies(self.flow, self.client)


@pytest.mark.parametrize("handler", [replies, Replies, decorated(replies)])
def test_what_a_generator_yields_are_messages_and_what_it_returns_is_the_success(peer, handler):
    client = peer(handler)
    result = client.call({"n": 1}, {"n": 2})
    assert client.messages(result.flow_id) == [{"twice": 2}, {"twice": 4}]
    assert result.value == "the end"


async def async_replies(flow, client):
    async for packet in flow:
        yield {"twice": 2 * packet.n}


class AsyncReplies:
    def __init__(self, flow, client):
        self.flow, self.client = flow, client

    async def handle_data(self):
        async for packet in async_replies(self.flow, self.client):
            yield packet


@pytest.mark.parametrize("handler", [async_replies, AsyncReplies, decorated(async_replies)])
def test_what_an_async_generator_yields_are_messages_and_its_end_is_a_success(peer, handler):
    client = peer(handler)
    result = client.call({"n": 1}, {"n": 2})
    assert client.messages(result.flow_id) == [{"twice": 2}, {"twice": 4}]
    assert (result.status, result.value) == ("success", None)


def test_what_a_coroutine_returns_is_the_success(peer):
    async def handler(flow, client):
        return [packet.n async for packet in flow]

    assert peer(handler).call({"n": 1}, {"n": 2}).value == [1, 2]


def test_a_coroutine_can_say_its_result_itself(peer):
    async def handler(flow, client):
        await client.success((await flow.next()).n)
        return "returned"

    assert peer(handler).call({"n": 1}).value == 1


def test_thread_handlers_run_in_daemon_threads_and_coroutines_in_the_reactors(peer):
    ran = []

    def handler(flow, client):
        ran.append(threading.current_thread())

    async def async_handler(flow, client):
        ran.append(threading.current_thread())

    peer(handler).call()
    peer(async_handler).call()
    assert ran[0] is not ran[1] is threading.current_thread()
    assert ran[0].daemon


# Failures


def failing(flow, client):
    raise ZeroDivisionError("secret")


def failing_generator(flow, client):
    yield {"n": 1}
    raise ZeroDivisionError("secret")


async def failing_coroutine(flow, client):
    raise ZeroDivisionError("secret")


async def failing_async_generator(flow, client):
    yield {"n": 1}
    raise ZeroDivisionError("secret")


class FailingInit:
    def __init__(self, flow, client):
        raise ZeroDivisionError("secret")

    handle_data = print


@pytest.mark.parametrize(
    "handler",
    [failing, failing_generator, failing_coroutine, failing_async_generator, FailingInit],
)
def test_a_handler_that_raises_has_failed(peer, handler, logged_errors):
    result = peer(handler).call({})
    logged_errors.claim(ZeroDivisionError)
    assert (result.status, result.error["error_class"]) == ("error", "ZeroDivisionError")


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_thread_that_raises_what_ends_programs_has_only_failed(peer, logged_errors, error):
    def handler(flow, client):
        raise error

    result = peer(handler).call({})
    logged_errors.claim(error)
    assert result.error["error_class"] == error.__name__


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_coroutine_that_raises_what_ends_programs_has_only_failed(peer, logged_errors, error):
    async def handler(flow, client):
        raise error

    result = peer(handler).call({})
    logged_errors.claim(error)
    assert result.error["error_class"] == error.__name__


def test_a_generators_finally_runs_when_its_client_is_gone(peer):
    finished = threading.Event()

    def handler(flow, client):
        try:
            yield from flow
        finally:
            finished.set()

    client = peer(handler)
    client.send(client.open(), {"n": 1})
    client.lose()
    client.returned()
    assert finished.is_set()


def test_a_generator_that_yields_what_cannot_travel_is_closed_and_has_failed(peer, logged_errors):
    closed = []

    def handler(flow, client):
        try:
            yield {"what": object()}
        finally:
            closed.append(True)

    result = peer(handler).call()
    logged_errors.claim(TypeError)
    assert (result.error["error_class"], closed) == ("UnsupportedValue", [True])


def test_an_async_generator_that_yields_what_cannot_travel_is_closed(peer, logged_errors):
    closed = []

    async def handler(flow, client):
        try:
            yield {"what": object()}
        finally:
            closed.append(True)

    result = peer(handler).call()
    logged_errors.claim(TypeError)
    assert (result.error["error_class"], closed) == ("UnsupportedValue", [True])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: coroutine(None, None), "coroutine"),
        (Deferred, "Deferred"),
        (lambda: async_generator(None, None), "async_generator"),
    ],
)
def test_a_function_that_gives_what_nobody_awaits_has_failed(peer, logged_errors, make, name):
    def handler(flow, client):
        made = make()
        if isinstance(made, Deferred):
            made.addErrback(lambda _: None)
        return made

    result = peer(handler, expose_errors=True).call()
    logged_errors.claim(TypeError)
    assert f"gave a {name}, which nobody awaits" in result.error["message"]


def test_a_wrapper_that_gives_nothing_to_await_around_a_coroutine_has_failed(peer, logged_errors):
    @functools.wraps(coroutine)
    def handler(flow, client):
        return 5

    result = peer(handler).call()
    logged_errors.claim(TypeError)
    assert result.error["error_class"] == "TypeError"


def test_a_handler_that_swallows_the_flows_error_and_returns_has_said_nothing(peer):
    swallowed = []

    def handler(flow, client):
        try:
            list(flow)
        except Exception as error:
            swallowed.append(error)
        return "fine"

    client = peer(handler)
    flow = client.open()
    client.machine.abort(flow, "ValueError")
    assert client.over(flow)
    client.returned()
    assert [type(error).__name__ for error in swallowed] == ["ClientError"]


def test_a_handler_that_raises_the_flows_error_has_not_failed(peer):
    client = peer(lambda flow, client: list(flow))
    flow = client.open()
    client.machine.cancel(flow)
    assert client.over(flow)
    client.returned()


def test_a_handler_that_turns_the_flows_error_into_its_own_has_failed(peer, logged_errors):
    def handler(flow, client):
        try:
            list(flow)
        except Exception as error:
            raise ValueError("my own") from error

    client = peer(handler)
    flow = client.open()
    client.machine.cancel(flow)
    assert client.over(flow)
    client.returned()
    logged_errors.claim(ValueError)


def test_a_coroutine_that_nothing_holds_any_more_has_not_failed(session):
    held = []

    async def handler(flow, client):
        try:
            await Deferred()
        finally:
            held.append("finally")

    runner = HandlerRunner(handler)
    inbox: Any = runner.make_inbox()
    running = runner.run_on_reactor(session(inbox, header={}), inbox)
    running.send(None)
    running.close()
    assert held == ["finally"]
