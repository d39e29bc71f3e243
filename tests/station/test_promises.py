"""All clients keep the promises that the blocking one keeps over plain TCP, inside TLS as well."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest

from pyf.station.testing import KINDS, PROMISES, Bench, HandlerFailed, check_promise

BROKEN = ["a_failing_handler_fails_the_call"]
WATCHED = [
    "a_cut_answer_is_no_success",
    "a_cut_flow_is_no_success",
]
"""What is checked by looking at frames on their way."""


def bench(connect: Any, listen: Any, kind: Any, **options: Any) -> Bench:
    """
    Return what promises are checked with: *options* are those of the client.
    """
    tls = options.pop("server", None)

    @contextmanager
    def joined(handler: Any, through: Callable[[int], int]) -> Generator[Any]:
        port = through(listen(handler, tls=tls))
        yield connect("127.0.0.1", port, True, **options)

    return Bench(joined, kind)


@pytest.mark.parametrize("connect", ["asyncio", "Twisted"], indirect=True)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda each: each.__name__)
def test_the_async_clients_keep_every_promise(connect, listen, promise, logged_errors):
    """
    Each promise holds for either client, with a handler in a thread and one on the reactor.
    """
    for kind in ("generator", "coroutine"):
        assert kind in KINDS
        check_promise(promise, bench(connect, listen, kind))
        if promise.__name__ in BROKEN:
            logged_errors.claim(HandlerFailed)


@pytest.mark.parametrize(
    "promise",
    [each for each in PROMISES if each.__name__ not in WATCHED],
    ids=lambda each: each.__name__,
)
def test_the_clients_keep_their_promises_inside_tls(connect, listen, files, promise, logged_errors):
    """
    Each promise that can be checked from outside of TLS.
    """
    check_promise(promise, bench(connect, listen, "function", tls=files.ca, server=files.server))
    if promise.__name__ in BROKEN:
        logged_errors.claim(HandlerFailed)
