"""The state of one flow: what is queued, what is said last, and who is woken."""

import threading
from operator import attrgetter
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, globalLogPublisher

from pyf.station.blame import WITHHELD
from pyf.station.flow import Flow
from pyf.station.inbox import AsyncInbox
from pyf.station.relay import RelayQueue
from pyf.station.session import END, TICK
from pyf.transport import (
    BadFlowEnding,
    ClientError,
    DeadlineExceeded,
    FlowCancelled,
    LocalProtocolError,
    Packet,
    PacketTooLarge,
    RemoteProtocolError,
    UnsupportedValue,
    encode_packet,
)
from pyf.transport.limits import BATCH_BYTES, BATCH_PACKETS, INITIAL_BYTES

LOST = BadFlowEnding("the connection was cut")
CANCELLED = FlowCancelled("the client gave up")


@pytest.fixture
def logged():
    """
    What is logged below the level of errors.
    """
    events: list[dict[str, Any]] = []
    observer: Any = events.append
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


def drain(inbox):
    end = object()
    inbox.put(end)
    return list(iter(inbox.get, end))


# What comes in


def test_what_comes_goes_into_the_inbox_in_order(session, batch):
    inbox = RelayQueue()
    state = session(inbox)
    first, second = batch({}, {}), batch({})
    state.receive(first)
    state.receive(second)
    state.end()
    assert (drain(inbox), state.received, state.whole) == ([first, second, END], 3, True)


def test_a_failure_goes_into_the_inbox_and_to_the_client(session, carrier):
    inbox = RelayQueue()
    state = session(inbox)
    state.fail(CANCELLED, "cancelled")
    assert drain(inbox) == [CANCELLED]
    facts = {"status": "cancelled", "code": "cancelled", "message": "the client gave up"}
    assert carrier.results == [(7, 0, facts)]
    assert (state.ending, state.cancelled, state.given_up) == (CANCELLED, True, True)


def test_only_the_first_failure_counts(session, carrier):
    inbox = RelayQueue()
    state = session(inbox)
    state.fail(CANCELLED, "cancelled")
    state.fail(LOST, "deadline")
    assert (drain(inbox), len(carrier.results), state.ending) == ([CANCELLED], 1, CANCELLED)


def test_a_failure_after_the_result_has_left_counts_for_nothing(session, carrier):
    state = session(RelayQueue())
    state.succeed(1)
    carrier.turn()
    state.fail(CANCELLED, "cancelled")
    assert (state.ending, len(carrier.results)) == (None, 1)


def test_a_result_that_comes_while_messages_leave_frees_its_place_before_it_leaves(
    monkeypatch, session, carrier
):
    """A client that calls again at once is not to find the place taken."""
    state = session(RelayQueue())
    left_before = []
    state.on_return = lambda _: left_before.append(len(carrier.results))
    send_messages = carrier.send_messages

    def send_and_succeed(flow_id, pending):
        monkeypatch.undo()
        count = send_messages(flow_id, pending)
        state.returned = True
        state.succeed(1)
        return count

    monkeypatch.setattr(carrier, "send_messages", send_and_succeed)
    state.outbox.add({})
    carrier.turn()
    carrier.turn()
    assert left_before[0] == 0
    assert len(carrier.results) == 1


def test_a_failure_overtakes_a_result_that_waits_for_credit(session, carrier):
    carrier.credit = 0
    state = session(RelayQueue())
    state.outbox.add({})
    state.succeed(1)
    carrier.turn()
    state.fail(CANCELLED, "cancelled")
    assert [facts["status"] for _, _, facts in carrier.results] == ["cancelled"]
    state.flush()
    assert len(carrier.results) == 1


def test_what_has_been_decoded_is_dropped_where_the_flow_is_given_up(session):
    state = session(RelayQueue())
    packets = iter([Packet(), Packet()])
    state.decoded = (5, packets, packets)
    state.fail(CANCELLED)
    assert (list(packets), state.consumed) == ([], 3)


def test_consumption_is_reported_in_the_reactors_thread(session, carrier):
    session(RelayQueue()).report_consumed(3, 40)
    assert carrier.consumed == []
    carrier.turn()
    assert carrier.consumed == [(7, 3, 40)]


# A connection that is gone


def test_a_lost_connection_is_the_end_of_a_flow_whose_client_waits(session):
    inbox = RelayQueue()
    state = session(inbox)
    state.end()
    state.lose(LOST)
    assert (drain(inbox), state.ending) == ([END, LOST], LOST)


def test_a_lost_connection_is_the_end_of_a_flow_that_is_not_whole(session):
    inbox = RelayQueue()
    state = session(inbox, waits=False)
    state.lose(LOST)
    assert (drain(inbox), state.ending) == ([LOST], LOST)


def test_a_client_that_does_not_wait_may_leave_behind_its_end(session, carrier):
    inbox = RelayQueue()
    state = session(inbox, waits=False)
    state.end()
    state.lose(LOST)
    assert (drain(inbox), state.cancelled) == ([END], False)
    assert not state.outbox.add({})
    state.succeed("nobody hears it")
    carrier.turn()
    assert (carrier.messages, carrier.results) == ([], [])


def test_a_handler_that_waits_to_send_goes_on_when_its_client_has_left(session, carrier, thread):
    carrier.credit = 0
    state = session(RelayQueue(), waits=False)
    while not state.outbox.add({}):
        pass
    room = state.outbox.room()
    waiting = thread(state.wait_for_room)
    state.end()
    state.lose(LOST)
    waiting()
    assert room.called


# What goes out


def test_messages_go_before_the_result(session, carrier):
    carrier.credit = 1
    state = session(RelayQueue())
    state.outbox.add({"n": 1})
    state.outbox.add({"n": 2})
    state.succeed("Done")
    carrier.turn()
    assert (carrier.messages, carrier.results) == ([encode_packet({"n": 1})], [])
    carrier.credit = 1
    state.flush()
    assert len(carrier.messages) == 2
    assert [facts for _, _, facts in carrier.results] == [{"status": "success", "value": "Done"}]


def test_many_messages_cost_one_call_of_the_reactor(session, carrier, monkeypatch):
    calls = []
    monkeypatch.setattr(carrier, "call_soon", calls.append)
    state = session(RelayQueue())
    for n in range(100):
        state.outbox.add({"n": n})
    state.succeed(None)
    assert len(calls) == 1


def test_who_waits_for_room_gets_the_flows_ending(session, carrier, thread):
    carrier.credit = 0
    state = session(RelayQueue())
    while not state.outbox.add({}):
        pass
    waiting = thread(state.wait_for_room)
    state.fail(LOST)
    with pytest.raises(BadFlowEnding):
        waiting()


def test_room_is_there_at_once_where_the_queue_is_not_full(session):
    state = session(RelayQueue())
    state.wait_for_room()
    assert state.outbox.room().called


def test_a_flush_that_makes_no_room_wakes_nobody(session, carrier):
    carrier.credit = 0
    state = session(RelayQueue())
    while not state.outbox.add({}):
        pass
    room = state.outbox.room()
    carrier.turn()
    assert not room.called
    carrier.credit = 1
    state.flush()
    assert room.called


def test_a_room_that_nobody_waits_for_any_more_wakes_nobody(session, carrier):
    carrier.credit = 0
    state = session(RelayQueue())
    while not state.outbox.add({}):
        pass
    room = state.outbox.room()
    room.addErrback(lambda failure: failure.trap(CancelledError))
    room.cancel()
    carrier.credit = 1
    state.flush()
    assert room.called


def test_the_result_says_how_many_packets_had_been_taken_when_it_was_given(session, carrier):
    state = session(RelayQueue())
    packets = iter([Packet(), Packet()])
    state.decoded = (5, packets, packets)
    state.succeed(None)
    next(packets)
    carrier.turn()
    assert carrier.results[0][1] == 3


def test_a_value_that_is_changed_after_it_was_given_leaves_as_it_was(session, carrier):
    state = session(RelayQueue())
    value: dict[str, list[Any]] = {"list": [1]}
    state.succeed(value)
    value["list"].append(object())
    carrier.turn()
    assert carrier.results[0][2]["value"] == {"list": [1]}


def test_a_result_before_the_end_ends_the_flow_behind_what_has_come(session, batch):
    inbox = RelayQueue()
    state = session(inbox)
    state.receive(batch({}))
    state.succeed(None)
    _, error = drain(inbox)
    assert isinstance(error, FlowCancelled)
    assert not state.cancelled


def test_a_result_behind_the_end_adds_nothing_to_the_flow(session):
    inbox = RelayQueue()
    state = session(inbox)
    state.end()
    state.succeed(None)
    assert drain(inbox) == [END]


# The first word stands


@pytest.mark.parametrize("first", ["succeed", "report_error"])
@pytest.mark.parametrize("second", ["succeed", "report_error", "outbox.add"])
def test_nothing_can_be_said_after_the_result(session, carrier, first, second):
    state = session(RelayQueue())
    attrgetter(first)(state)("first")
    with pytest.raises(LocalProtocolError, match="the first word stands") as caught:
        attrgetter(second)(state)({"n": 2} if second == "outbox.add" else "second")
    assert caught.value.code == "answered"
    carrier.turn()
    ((_, _, facts),) = carrier.results
    assert "first" in facts.values()
    assert carrier.messages == []


@pytest.mark.parametrize("say", ["succeed", "report_error", "outbox.add"])
def test_whatever_is_said_after_the_flows_ending_raises_it(session, say):
    state = session(RelayQueue())
    state.fail(LOST)
    with pytest.raises(BadFlowEnding) as caught:
        attrgetter(say)(state)({} if say == "outbox.add" else "late")
    assert caught.value is LOST


@pytest.mark.parametrize("say", ["succeed", "report_error", "outbox.add"])
def test_what_the_client_does_not_take_is_refused_where_it_is_said(session, carrier, say):
    carrier.max_packet = INITIAL_BYTES
    state = session(RelayQueue())
    text = "x" * INITIAL_BYTES
    with pytest.raises(PacketTooLarge) as caught:
        attrgetter(say)(state)({"text": text} if say == "outbox.add" else text)
    error = caught.value
    assert (error.size > INITIAL_BYTES, error.limit, error.option) == (
        True,
        INITIAL_BYTES,
        "max_packet",
    )
    state.succeed("small")
    carrier.turn()
    assert (carrier.messages, len(carrier.results)) == ([], 1)


@pytest.mark.parametrize("say", ["succeed", "outbox.add"])
def test_what_holds_too_many_values_is_refused_where_it_is_said(session, carrier, say):
    state = session(RelayQueue())
    rows = [0] * carrier.limits.max_objects
    state.outbox.add({"data": bytes(BATCH_BYTES)})  # The next message may be in pieces.
    with pytest.raises(PacketTooLarge, match="max_objects"):
        attrgetter(say)(state)(
            {"rows": rows, "data": bytes(BATCH_BYTES)} if say == "outbox.add" else rows
        )
    assert not state.answered


def test_what_two_drop_at_once_is_counted_once(session):
    state = session(RelayQueue())
    entered, left = threading.Event(), threading.Event()

    class Slow:
        """Three packets, the last of which takes its time."""

        def __init__(self) -> None:
            self.left = 3

        def __length_hint__(self) -> int:
            return self.left

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                entered.set()
                left.wait(0.05)  # Nobody else comes before this has ended.
                raise StopIteration
            self.left -= 1
            return Packet()

    state.decoded = (5, Slow(), iter(()))
    other = threading.Thread(target=state.drop)
    other.start()
    assert entered.wait(10)
    state.drop()
    left.set()
    other.join()
    assert state.consumed == 2


def test_a_value_that_cannot_travel_is_no_result_yet(session, carrier):
    state = session(RelayQueue())
    with pytest.raises(UnsupportedValue, match="value"):
        state.succeed(object())
    assert not state.answered
    state.succeed(1)
    assert state.answered


# Failures


def test_a_reported_exception_says_its_class_and_an_id(session, carrier, logged):
    session(RelayQueue()).report_error(ValueError("secret"))
    carrier.turn()
    ((_, _, facts),) = carrier.results
    assert facts == {
        "status": "error",
        "code": "handler_error",
        "error_class": "ValueError",
        "error_id": facts["error_id"],
    }
    (event,) = [each for each in logged if each.get("error_id") == facts["error_id"]]
    assert event["log_level"] is LogLevel.info
    assert event["text"].endswith(":\nValueError")


def test_a_reported_text_is_for_the_client(session, carrier, logged):
    session(RelayQueue()).report_error("no room")
    carrier.turn()
    ((_, _, facts),) = carrier.results
    assert (facts["error_class"], facts["message"]) == ("Error", "no room")
    assert [each["text"] for each in logged if "error_id" in each] == [WITHHELD]


def test_a_class_of_exceptions_is_reported_as_one_of_them(session, carrier):
    session(RelayQueue()).report_error(ValueError)
    carrier.turn()
    ((_, _, facts),) = carrier.results
    assert facts["error_class"] == "ValueError"


@pytest.mark.parametrize("error", [None, 5, b"no room", {}, int])
def test_what_is_no_error_is_refused_and_the_handler_may_still_answer(session, error):
    state = session(RelayQueue())
    with pytest.raises(TypeError, match="an error is an exception or a str"):
        state.report_error(error)
    assert not state.answered


def test_an_error_that_came_too_late_is_not_logged_as_reported(session, logged):
    state = session(RelayQueue())
    state.succeed(None)
    with pytest.raises(LocalProtocolError):
        state.report_error("late")
    assert not [each for each in logged if "error_id" in each]


def test_a_failure_is_logged_once_under_the_id_that_the_client_gets(
    session, carrier, logged_errors
):
    session(RelayQueue()).report_failure(ZeroDivisionError("secret"))
    carrier.turn()
    ((_, _, facts),) = carrier.results
    (event,) = logged_errors.claim(ZeroDivisionError)
    assert event["error_id"] == facts["error_id"]
    assert facts == {
        "status": "error",
        "code": "handler_failed",
        "error_class": "ZeroDivisionError",
        "error_id": event["error_id"],
    }


def test_a_failure_after_the_result_is_logged_and_the_result_stands(
    session, carrier, logged_errors
):
    state = session(RelayQueue())
    state.succeed(1)
    state.report_failure(ZeroDivisionError())
    carrier.turn()
    logged_errors.claim(ZeroDivisionError)
    assert [facts["status"] for _, _, facts in carrier.results] == ["success"]


def test_a_failure_after_the_flows_ending_is_logged(session, carrier, logged_errors):
    state = session(RelayQueue())
    state.fail(LOST)
    state.report_failure(ZeroDivisionError())
    carrier.turn()
    logged_errors.claim(ZeroDivisionError)
    assert carrier.results == []


def test_what_the_flow_itself_raised_is_no_failure(session, carrier, batch):
    inbox = RelayQueue()
    state = session(inbox)
    state.succeed(None)
    (early,) = drain(inbox)
    breach = RemoteProtocolError("bad")
    state.break_off(breach)
    for error in (early, breach):
        state.report_failure(error)
    carrier.turn()
    assert len(carrier.results) == 1

    lost = session(RelayQueue())
    lost.fail(LOST)
    lost.report_failure(LOST)


def test_another_error_of_the_same_class_is_a_failure(session, logged_errors):
    state = session(RelayQueue())
    state.fail(LOST)
    state.report_failure(BadFlowEnding("of another flow"))
    logged_errors.claim(BadFlowEnding)


def test_a_cancellation_is_a_failure_unless_the_flow_has_ended(session, carrier, logged_errors):
    state = session(AsyncInbox())
    state.report_failure(CancelledError())
    carrier.turn()
    logged_errors.claim(CancelledError)
    assert carrier.results[0][2]["error_class"] == "CancelledError"

    ended = session(AsyncInbox())
    ended.fail(CANCELLED)
    ended.report_failure(CancelledError())


class Untold(Exception):
    def __str__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [ValueError("x" * INITIAL_BYTES), ValueError("\ud800")])
def test_an_exposed_text_that_cannot_travel_is_left_out(session, carrier, logged_errors, error):
    carrier.expose_errors, carrier.max_packet = True, INITIAL_BYTES
    session(RelayQueue()).report_failure(error)
    carrier.turn()
    logged_errors.claim(ValueError)
    ((_, _, facts),) = carrier.results
    assert (facts["error_class"], facts["message"], facts["traceback"]) == (
        "ValueError",
        None,
        None,
    )


def test_an_exception_that_cannot_say_what_it_is_is_told_all_the_same(
    session, carrier, logged_errors
):
    carrier.expose_errors = True
    session(RelayQueue()).report_failure(Untold())
    carrier.turn()
    logged_errors.claim(Untold)
    assert carrier.results[0][2]["error_class"] == "Untold"


# Coroutines that wait for something else


@pytest.fixture
def interrupted(session):
    """
    Make a session whose coroutine can be cancelled; return it, and the list of cancellations.
    """
    calls = []

    def make():
        state = session(AsyncInbox())
        state.cancel_handler = lambda: calls.append(True)
        return state, calls

    return make


@pytest.mark.parametrize("error", [CANCELLED, DeadlineExceeded("late")])
def test_a_coroutine_that_waits_for_something_else_is_interrupted(interrupted, error):
    state, calls = interrupted()
    state.fail(error)
    assert calls == [True]


@pytest.mark.parametrize("error", [LOST, ClientError("failed")])
def test_a_coroutine_that_has_packets_to_handle_is_not_interrupted(interrupted, error):
    state, calls = interrupted()
    state.fail(error)
    assert calls == []


def test_a_coroutine_that_waits_for_its_flow_is_not_interrupted(interrupted):
    state, calls = interrupted()
    state.reading = True
    state.fail(CANCELLED)
    assert calls == []


def test_a_coroutine_that_waits_to_send_is_not_interrupted(interrupted, carrier):
    carrier.credit = 0
    state, calls = interrupted()
    while not state.outbox.add({}):
        pass
    room = state.outbox.room()
    state.fail(CANCELLED)
    assert (calls, room.called) == ([], True)


def test_a_coroutine_that_once_waited_to_send_is_interrupted(interrupted, carrier):
    carrier.credit = 0
    state, calls = interrupted()
    while not state.outbox.add({}):
        pass
    room: Deferred[None] = state.outbox.room()
    room.addErrback(lambda failure: failure.trap(CancelledError))
    room.cancel()
    state.fail(CANCELLED)
    assert calls == [True]


def test_messages_to_a_failed_client_are_dropped_as_long_as_the_handler_reads(session, batch):
    """
    A handler that no longer takes what came is told, so that it does not speak for ever.
    """
    inbox: RelayQueue[Any] = RelayQueue()
    state = session(inbox)
    flow = Flow(state, inbox)
    state.receive(batch({"n": 1}, {"n": 2}))
    state.fail(ClientError("failed"))
    next(flow)
    for _ in range(BATCH_PACKETS):
        assert not state.outbox.add({})
    with pytest.raises(ClientError):
        state.outbox.add({})
    next(flow)
    with pytest.raises(ClientError):
        state.outbox.add({})


# When it leaves


def test_what_a_thread_says_in_a_row_leaves_at_the_next_look(session, carrier):
    state = session(RelayQueue())
    state.outbox.add({"n": 1})
    carrier.turn()
    state.outbox.add({"n": 2})
    carrier.turn()
    assert len(carrier.messages) == 1
    carrier.advance(TICK)
    assert len(carrier.messages) == 2


def test_what_a_thread_says_leaves_before_it_waits_for_its_flow(session, carrier):
    state = session(RelayQueue())
    for n in range(2):
        state.outbox.add({"n": n})
        state.hurry()
        carrier.turn()
        assert len(carrier.messages) == n + 1


def test_after_a_silent_look_a_message_leaves_at_once(session, carrier):
    state = session(RelayQueue())
    for n in range(2):
        state.outbox.add({"n": n})
        carrier.turn()
        assert len(carrier.messages) == n + 1
        carrier.advance(TICK)


@pytest.mark.parametrize("inbox", [RelayQueue, AsyncInbox])
def test_what_is_said_during_a_silent_look_leaves(session, carrier, inbox):
    """
    Whoever says it looks afterwards whether the reactor has to be woken.
    """
    state = session(inbox())
    outbox, lock = state.outbox, state._lock

    class Interrupted:
        def __enter__(self) -> None:
            outbox.pending.append(encode_packet({}))
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    state._lock = Interrupted()
    state.flush()
    state._lock = lock
    if outbox.resting:
        outbox._stir()
    carrier.turn()
    assert len(carrier.messages) == 1


def test_what_a_coroutine_says_leaves_at_the_end_of_the_turn(session, carrier):
    state = session(AsyncInbox())
    for n in range(2):
        state.outbox.add({"n": n})
        carrier.turn()
        assert len(carrier.messages) == n + 1


def test_nobody_looks_again_where_there_is_no_credit(session, carrier):
    state = session(RelayQueue())
    carrier.credit = 1
    for n in range(2):
        state.outbox.add({"n": n})
    carrier.turn()
    carrier.advance(TICK)
    assert not carrier.delayed()
    carrier.credit = 1
    state.flush()
    assert len(carrier.messages) == 2


@pytest.mark.parametrize("end", [lambda state: state.fail(LOST), lambda state: state.succeed(None)])
def test_nobody_looks_again_once_the_flow_is_over(session, carrier, end):
    state = session(RelayQueue())
    state.outbox.add({})
    carrier.turn()
    end(state)
    carrier.turn()
    assert not carrier.delayed()
