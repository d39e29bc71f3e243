"""What holds for every test: nothing is logged as an error unnoticed, nothing is left behind."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from twisted.logger import LogLevel, eventAsText, globalLogPublisher

from pyf.transport.pieces import Encoded, Pending, Run

# A shell that runs the tests in the background has them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no bug, so no example has a deadline. CI looks at the same examples each time:
# a red build is about the change that it builds. Elsewhere every run looks at new ones.
# STATION_EXAMPLES says how many.
settings.register_profile("new-examples", deadline=None)
settings.register_profile(
    "same-examples",
    deadline=None,
    derandomize=True,
    print_blob=True,
    max_examples=int(os.environ.get("STATION_EXAMPLES", "100")),
)
settings.load_profile("same-examples" if os.environ.get("CI") else "new-examples")

# Threads that belong to the process rather than to a test, by their exact name.
PROCESS_WIDE_THREADS = {
    "pyf.station-reactor",  # the reactor that all tests with real sockets share
    "pyf.station-keeper",  # the blocking clients' helper, which answers pings
    "pyf.station-nursery",  # which waits a moment for the next call
}
SETTLE_SECONDS = 15.0


class LoggedErrors:
    """Errors that Twisted's log got during one test."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("log_level") in {LogLevel.error, LogLevel.critical}:
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()

    def claim(
        self, *types: type[BaseException], count: int = 1, within: float = SETTLE_SECONDS
    ) -> list[dict[str, Any]]:
        """
        Wait for exactly *count* errors, of these exception types if any are given, and take them.

        Those that come later, or are of another type, still fail the test.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._matching(types)) >= count, within)
            found = self._matching(types)
            assert len(found) == count, f"expected {count} logged errors, got:\n{self.as_text()}"
            self._events = [event for event in self._events if event not in found]
        return found

    def _matching(self, types: tuple[type[BaseException], ...]) -> list[dict[str, Any]]:
        return [
            event
            for event in self._events
            if not types or ("log_failure" in event and event["log_failure"].check(*types))
        ]

    def as_text(self) -> str:
        return "\n".join(map(eventAsText, self._events))


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[LoggedErrors]:
    """
    Fail a test in which an error was logged that it didn't `claim`.
    """
    errors = LoggedErrors()
    observer: Any = errors  # pyright knows nothing of zope's interfaces
    globalLogPublisher.addObserver(observer)
    yield errors
    globalLogPublisher.removeObserver(observer)
    if text := errors.as_text():
        pytest.fail(f"errors were logged:\n{text}", pytrace=False)


@pytest.fixture(scope="session")
def program() -> Callable[..., Path]:
    """
    Return where the first program of several is; without any a test is skipped, and fails in CI.
    """

    def find(*patterns: str) -> Path:
        for pattern in patterns:
            folders = ["/"] if "/" in pattern else os.get_exec_path()
            for folder in folders:
                if found := sorted(Path(folder).glob(pattern)):
                    return found[-1].resolve()
        text = f"none of these is installed: {', '.join(patterns)}"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text)

    return find


@pytest.fixture(scope="session")
def take_apart() -> Callable[..., list[Encoded]]:
    """
    Take packets, at the most *count*, from the left of a queue, each out of the run that it is in.
    """

    def take(pending: Pending, count: float = inf) -> list[Encoded]:
        taken: list[Encoded] = []
        while pending and len(taken) < count:
            first = pending[0]
            in_run = isinstance(first, Run)
            taken.append(first.take(1, first.next_size)[1] if in_run else first)
            if not (in_run and first.packets):
                pending.popleft()
        return taken

    return take


def threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name not in PROCESS_WIDE_THREADS}


def open_files() -> set[tuple[str, str]]:
    """
    Number and target of each open file descriptor, where the system tells.
    """
    found = set()
    folder = Path("/proc/self/fd")
    for entry in folder.iterdir() if folder.exists() else ():
        with suppress(FileNotFoundError):  # the descriptor that lists the folder
            found.add((entry.name, str(entry.readlink())))
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind(logged_errors: LoggedErrors) -> Iterator[None]:
    """
    Fail a test after which a thread runs or a file is open that wasn't before.

    Takes *logged_errors* so that what the last threads log still counts for this test.
    """
    threads_before, files_before = threads(), open_files()
    yield
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := [*threads() - threads_before, *open_files() - files_before]:
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {', '.join(map(str, left))}", pytrace=False)
        time.sleep(0.002)  # a thread that ends tells nobody
