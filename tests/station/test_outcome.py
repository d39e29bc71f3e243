"""What a server's last word means to a client."""

import pytest

from pyf.station.listeners import LISTENER_EVENTS, Listeners
from pyf.station.outcome import (
    failure_packet,
    outcome,
    refusal,
    result_error,
    success_packet,
)
from pyf.transport import (
    DeadlineExceeded,
    FlowCancelled,
    FlowRefused,
    LocalProtocolError,
    Packet,
    ServerError,
)
from pyf.transport.events import GoAwayReceived, ResultReceived

FACTS = ("code", "error_class", "error_id", "message", "traceback")


def result(status: str, *, consumed: int = 0, value: object = None, **facts: str) -> ResultReceived:
    error = dict.fromkeys(FACTS) | facts
    return ResultReceived(flow_id=1, consumed=consumed, status=status, value=value, error=error)


def test_a_success_is_no_error():
    """
    The status "success" stands for no error, whatever the value.
    """
    assert result_error(result("success"), 3) is None


def test_a_success_is_told_by_a_packet_with_its_value():
    """
    The last packet of a call holds what the handler succeeded with.
    """
    packet = success_packet(result("success", value=[1, 2]))
    assert type(packet) is Packet
    assert packet == {"type": "success", "message": [1, 2]}


def test_a_refusal_says_why_and_that_it_is_safe_to_try_elsewhere():
    """
    FlowRefused has the server's code; no handler saw the flow.
    """
    error = result_error(result("refused", code="busy", message="all 4 are busy"), 0)
    assert isinstance(error, FlowRefused)
    assert error.code == "busy"
    assert str(error) == "the server refused the flow: all 4 are busy; it is safe to try elsewhere"


def test_a_refusal_without_a_code_is_refused():
    """
    A peer may leave facts out.
    """
    error = result_error(result("refused"), 0)
    assert isinstance(error, FlowRefused)
    assert error.code == "refused"


def test_a_flow_that_the_server_gave_up_is_cancelled():
    """
    The status "cancelled" is FlowCancelled.
    """
    assert isinstance(result_error(result("cancelled"), 0), FlowCancelled)


def test_a_deadline_that_passed_on_the_server_is_deadline_exceeded():
    """
    The status "deadline" is DeadlineExceeded, with the server's words and our timeout.
    """
    error = result_error(result("deadline", message="the client gave the call 2 s"), 0, 2)
    assert isinstance(error, DeadlineExceeded)
    assert error.timeout == 2
    assert "the client gave the call 2 s" in str(error)


def test_a_failure_states_its_facts():
    """
    ServerError says class, error id, and how many packets were sent and consumed.
    """
    error = result_error(
        result(
            "error",
            consumed=5,
            code="handler_failed",
            error_class="KeyError",
            error_id="abc",
            message="'x'",
            traceback="Traceback ...",
        ),
        7,
    )
    assert isinstance(error, ServerError)
    assert (error.code, error.error_class, error.error_id) == ("handler_failed", "KeyError", "abc")
    assert (error.message, error.traceback) == ("'x'", "Traceback ...")
    assert (error.sent, error.consumed) == (7, 5)
    text = "the handler failed with KeyError after 5 packets (error abc in the server's log): 'x'"
    assert str(error) == text


def test_an_error_that_the_handler_reported_reads_differently():
    """
    What a handler says by client.error() was reported; it did not fail.
    """
    error = result_error(result("error", code="handler_error", error_class="Error"), 0)
    assert str(error).startswith("the handler reported Error after 0 packets")


def test_a_failure_that_hides_its_text_has_none():
    """
    Facts that the server keeps to itself are None or empty.
    """
    error = result_error(result("error"), 0)
    assert isinstance(error, ServerError)
    assert (error.message, error.traceback, error.error_class) == (None, None, "")


@pytest.mark.parametrize("status", ["refused", "cancelled", "deadline", "error"])
def test_listeners_hear_of_each_failure(status):
    """
    The packet for listeners says which error the caller gets, and its text.
    """
    error = result_error(result(status), 0)
    assert error is not None
    assert failure_packet(error) == {
        "type": "failure",
        "error": type(error).__name__,
        "message": str(error),
    }


@pytest.fixture
def listening() -> tuple[Listeners, list[Packet]]:
    """
    Return listeners for all events, and what they hear.
    """
    heard: list[Packet] = []
    listeners = Listeners()
    for event in LISTENER_EVENTS:
        listeners.add(event, heard.append)
    return listeners, heard


def test_listeners_hear_of_a_success_before_it_is_returned(listening):
    """
    outcome() tells, once, then returns the packet: it is no message.
    """
    listeners, heard = listening
    packet = outcome(result("success", value=3), 0, None, listeners)
    assert heard == [packet] == [{"type": "success", "message": 3}]


def test_listeners_hear_of_a_failure_before_it_is_raised(listening):
    """
    outcome() tells, once, then raises the error.
    """
    listeners, heard = listening
    with pytest.raises(FlowRefused) as caught:
        outcome(result("refused"), 0, None, listeners)
    assert heard == [failure_packet(caught.value)]


@pytest.mark.parametrize("code", ["busy", "draining"])
def test_a_server_that_has_no_room_refuses_the_flow(code):
    """
    A GOAWAY for want of room is FlowRefused.
    """
    error = refusal(GoAwayReceived(last_flow=0, code=code, message="no room"))
    assert isinstance(error, FlowRefused)
    assert (error.code, str(error)) == (code, "no room: it is safe to try elsewhere")


def test_a_server_that_does_not_understand_us_makes_it_our_error():
    """
    A GOAWAY with any other code is a LocalProtocolError.
    """
    error = refusal(GoAwayReceived(last_flow=0, code="version", message="another version"))
    assert isinstance(error, LocalProtocolError)
    assert (error.code, str(error)) == ("version", "the server gave up: another version")
