"""A log is told where an exception was raised, and not a word of what it says."""

import io

import pytest
from twisted.logger import textFileLogObserver
from twisted.python.failure import Failure

from pyf.station.blame import FRAMES, Quiet, described, failure, failure_facts, stack


def raised() -> BaseException:
    try:
        try:
            open("/canary/path")  # noqa: PTH123, SIM115
        except OSError as cause:
            error = ValueError("canary")
            error.add_note("canary") if hasattr(error, "add_note") else None
            raise error from cause
    except ValueError as raised:
        return raised
    raise AssertionError


def deep(left: int) -> None:
    if not left:
        raise KeyError("canary")
    deep(left - 1)


def test_it_says_class_file_line_and_function_of_each_cause():
    lines = stack(raised()).splitlines()[1:]
    assert lines[1] == "FileNotFoundError"
    assert lines[3] == "ValueError"
    assert lines[0].startswith(f'  File "{__file__}", line ')
    assert lines[2].endswith(", in raised")


def test_a_deep_stack_is_cut_to_its_innermost_frames():
    with pytest.raises(KeyError) as caught:
        deep(2 * FRAMES)
    lines = stack(caught.value).splitlines()[1:]
    assert len(lines) == FRAMES + 1
    assert all(line.endswith(", in deep") for line in lines[:-1])


def test_causes_that_go_round_end():
    one, two = ValueError(), KeyError()
    one.__cause__, two.__cause__ = two, one
    assert stack(one).endswith(":\nKeyError\nValueError")


def test_a_context_that_is_suppressed_is_not_told():
    error = ValueError()
    error.__context__ = KeyError()
    error.__suppress_context__ = True
    assert stack(error).endswith(":\nValueError")


@pytest.mark.parametrize("detail", ["brief", "default", "verbose"])
def test_a_quiet_failure_says_nothing_in_any_form(detail):
    quiet = failure(raised(), exposed=False)
    texts = [
        quiet.getTraceback(detail=detail),
        quiet.getErrorMessage(),
        quiet.getBriefTraceback(),
        str(quiet),
        repr(quiet),
        repr(quiet.value),
        repr(quiet.__getstate__()),
    ]
    assert not any("canary" in text for text in texts)
    assert quiet.check(ValueError) is ValueError


def test_a_log_file_has_the_stack_and_not_the_text():
    out = io.StringIO()
    event = {
        "log_format": "failed",
        "log_time": 0.0,
        "log_failure": failure(raised(), exposed=False),
    }
    textFileLogObserver(out)(event)
    assert "canary" not in out.getvalue()
    assert "in raised" in out.getvalue()


def test_what_is_exposed_is_all_there_is():
    error = raised()
    assert "ValueError: canary" in described(error, exposed=True)
    assert described(error, exposed=False) == stack(error)
    assert described("canary", exposed=True) == "canary"
    assert "canary" not in described("canary", exposed=False)
    assert type(failure(error, exposed=True)) is Failure
    assert isinstance(failure(error, exposed=False), Quiet)


def test_text_and_traceback_are_told_only_where_they_are_exposed():
    error = ZeroDivisionError("secret")
    hidden = failure_facts(error, "handler_failed", expose=False)
    exposed = failure_facts(error, "handler_failed", expose=True)
    assert "secret" not in str(hidden)
    assert exposed["message"] == "secret"
    assert "ZeroDivisionError: secret" in exposed["traceback"]
    assert exposed["error_id"] != hidden["error_id"]
