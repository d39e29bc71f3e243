"""Running a reactor with factories on endpoints, until a signal ends it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import click
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    jsonFileLogObserver,
    textFileLogObserver,
)

from pyf.station.address import address_text
from pyf.station.cli.common import Decorator, Failure, say
from pyf.station.service import endpoint_string

DRAINING: Final = "draining; Ctrl-C again breaks off"
LOGS: Final[dict[str, Any]] = {"text": textFileLogObserver, "json": jsonFileLogObserver}
_from_string: Final[Any] = endpoints.serverFromString  # untyped
_adopted: Final[Any] = endpoints.AdoptedStreamServerEndpoint


def the_reactor(name: str = "default") -> Any:
    """Return the process's reactor: the platform's default one, or that of asyncio."""
    if name == "asyncio":
        from twisted.internet import asyncioreactor

        asyncioreactor.install()
    from twisted.internet import reactor

    return reactor


def begin_logging(form: str = "text", level: Any = LogLevel.info) -> None:
    """Log to stderr, as text or as lines of JSON."""
    predicate: Any = LogLevelFilterPredicate(defaultLogLevel=level)
    observer: Any = FilteringLogObserver(LOGS[form](sys.stderr), [predicate])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)


def listen(reactor: Any, factory: Any, endpoint: str) -> Any:
    """Return the port on which *factory* listens. Raises click's error for a bad endpoint."""
    return _listening(factory, _parse(reactor, endpoint), endpoint)


def adopt(reactor: Any, factory: Any, descriptor: int) -> Any:
    """Return the port on a socket that listens already, which is inherited as *descriptor*."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        endpoint = _adopted(reactor, descriptor, sock.family)
    return _listening(factory, endpoint, f"descriptor {descriptor}")


def _parse(reactor: Any, endpoint: str) -> Any:
    try:
        return _from_string(reactor, endpoint_string(endpoint))
    except (ValueError, TypeError, LookupError, OSError) as error:
        text = f"{endpoint!r} is no endpoint, such as tcp:8000:interface=127.0.0.1 ({error})"
        raise click.BadParameter(text, param_hint="--endpoint") from error


def _listening(factory: Any, endpoint: Any, name: str) -> Any:
    found: list[Any] = []
    failed: list[Any] = []
    listening: Deferred[Any] = endpoint.listen(factory)
    listening.addCallbacks(found.append, failed.append)
    if failed:
        if failed[0].check(CannotListenError, OSError, OverflowError):
            reason = getattr(failed[0].value, "socketError", failed[0].value)
            raise Failure(f"cannot listen on {name}: {reason}")
        failed[0].raiseException()
    return found[0]


def where(port: Any) -> str:
    """Return where a port listens, for people, and for those who asked for any free port."""
    host = port.getHost()
    name = getattr(host, "host", None)
    return address_text(name, host.port) if name is not None else str(getattr(host, "name", host))


def run(reactor: Any, stop_now: Callable[[], object], leash: int | None = None) -> int:
    """Run until SIGTERM or SIGINT, and return the exit code.

    What listens drains then; at a second signal *stop_now* is called. The other end of the pipe
    *leash* is held by the supervisor: once that has gone, so does this process.
    """
    got: list[int] = []

    def end(number: int, _: object = None) -> None:
        got.append(number)
        if number == signal.SIGINT and len(got) == 1:
            say(DRAINING)
        reactor.callFromThread(_stop_once, reactor, stop_now, len(got))

    interrupt: Any = end
    if leash is not None:
        interrupt = signal.SIG_IGN  # Ctrl-C reaches the supervisor, too, which asks for the drain.
        threading.Thread(target=_feel, args=(leash, end), daemon=True).start()
    with handling(end, signal.SIGTERM), handling(interrupt, signal.SIGINT):
        reactor.run(installSignalHandlers=False)
    return 128 + signal.SIGINT if got and got[0] == signal.SIGINT else 0


def _feel(leash: int, end: Callable[[int], None]) -> None:
    os.read(leash, 1)
    end(signal.SIGTERM)


def _stop_once(reactor: Any, stop_now: Callable[[], object], count: int) -> None:
    if count > 1:
        stop_now()
    elif reactor.running:
        reactor.stop()


@contextmanager
def handling(function: Any, *numbers: signal.Signals) -> Generator[None]:
    """Have *function* called at these signals."""
    with ExitStack() as stack:
        for number in numbers:
            stack.callback(signal.signal, number, signal.signal(number, function))
        yield


endpoint_option: Decorator = click.option(
    *("-e", "--endpoint", "endpoints"),
    multiple=True,
    metavar="ENDPOINT",
    help="Where to listen: HOST:PORT, or Twisted's endpoint string such as tcp:8000, unix:PATH, "
    "systemd:domain=INET:index=0. May be repeated.",
)
