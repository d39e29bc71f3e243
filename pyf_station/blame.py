"""What a log and a client are told of an exception: its class and stack, not what it says; and
what a log is told of what a client sent.

An exception's text may quote what a client sent, and so may its notes and the source of the line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from traceback import format_exception, walk_tb
from typing import Any, Final
from uuid import uuid4

from twisted.python.failure import Failure
from twisted.python.reflect import qual, safe_str

WITHHELD: Final = "(its text is logged with expose_errors=True)"
"""What stands for a text in a log."""

LOGGED: Final = 400
"""Characters of what a client sent that a line in the log has, at most, of each thing."""

FRAMES: Final = 50
"""Innermost frames that are told of each exception."""


def stack(error: BaseException) -> str:
    """Return the classes of *error* and its causes, and the frames that they went through."""
    lines = (line for each in reversed(list(_chain(error))) for line in _lines(each))
    return "\n".join(("Traceback (most recent call last):", *lines))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        context = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or context


def _lines(error: BaseException) -> Iterator[str]:
    for frame, line in deque(walk_tb(error.__traceback__), FRAMES):
        code = frame.f_code
        yield f'  File "{code.co_filename}", line {line}, in {code.co_name}'
    yield qual(type(error)).removeprefix("builtins.")


def described(error: BaseException | str, *, exposed: bool) -> str:
    """Return what a log is told of *error*: all of it only if *exposed*.

    Of a text that a handler chose to tell its client, that is nothing.
    """
    if isinstance(error, str):
        return error if exposed else WITHHELD
    return "".join(format_exception(error)) if exposed else stack(error)


def escaped(text: str, most: int = LOGGED) -> str:
    """Return what a client sent as it may stand in a log: a part of one line, in ASCII."""
    return text[:most].encode("unicode_escape").decode()[:most]


class _Withheld:
    """Stands for an exception whose text nobody is to read."""

    def __repr__(self) -> str:
        return WITHHELD


class Quiet(Failure):
    """A failure that is logged with its class and stack alone."""

    told: str

    def printTraceback(self, file: Any = None, *_: object, **__: object) -> None:  # noqa: N802 - Twisted's name
        """Write the stack."""
        print(self.told, file=file)


_Failure: Final[Any] = Failure  # which comes without types
_Quiet: Final[Any] = Quiet


def failure(error: BaseException, *, exposed: bool) -> Any:
    """Return *error* as Twisted logs it: with its text only if *exposed*."""
    if exposed:
        return _Failure(error)
    quiet = _Quiet(error)
    quiet.told, quiet.value = stack(error), _Withheld()
    return quiet


def failure_facts(error: BaseException | str, code: str, *, expose: bool) -> dict[str, Any]:
    """Return the RESULT of a failure: with its text only if *expose* is set or it is a str."""
    facts: dict[str, Any] = {"code": code, "error_id": uuid4().hex[:12]}
    if isinstance(error, str):
        return facts | {"error_class": "Error", "message": error}
    facts["error_class"] = type(error).__name__
    if expose:
        facts["message"] = safe_str(error)
        facts["traceback"] = "".join(format_exception(error))
    return facts
