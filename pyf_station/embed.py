"""Serve flows from a process that has other work: a WSGI server, a script, anything with threads.

The reactor runs in a thread that tgscheduler starts, one for the process, whoever asks first.
Needs the extra ``pyf.station[embed]``.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from functools import partial
from queue import Empty, Queue
from typing import Any, Final, Self

import twisted.internet
from tgscheduler import kronos
from twisted.internet import endpoints
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.threads import blockingCallFromThread
from twisted.python import threadable
from twisted.python.failure import Failure

from pyf.station.server import STOP_GRACE, FlowServer

__all__ = ["Station", "serve"]

START_TIMEOUT = 10.0
"""Seconds that the reactor has to start."""

# Untyped, or typed for functions that return no Deferred.
_from_string: Final[Any] = endpoints.serverFromString
_call_in_reactor: Final[Any] = blockingCallFromThread

_lock = threading.Lock()
_stations: list[Station] = []


def serve(server: FlowServer, endpoint: str | IStreamServerEndpoint) -> Station:
    """Listen with *server* on *endpoint*, ``'tcp:8000'`` say, and return once it accepts flows.

    Starts the reactor, in a thread of its own, unless it runs already. May be called any number of
    times, from any thread but the reactor's, and in every process after a fork.

    Raises what listening raises (``twisted.internet.error.CannotListenError``), and RuntimeError
    where the reactor cannot run any more or this is its own thread; TypeError for what is no
    FlowServer or no endpoint.
    """
    if not isinstance(server, FlowServer):
        raise TypeError(f"what serves is a FlowServer, not {server!r}")
    if not (isinstance(endpoint, str) or IStreamServerEndpoint.providedBy(endpoint)):
        raise TypeError(f"an endpoint is a Twisted one or its string, not {endpoint!r}")
    with _lock:
        reactor = _running_reactor()
        _check_thread("embed.serve()")
        listener: Any = _from_string(reactor, endpoint) if isinstance(endpoint, str) else endpoint
        station: Station = _call_in_reactor(reactor, _listen, reactor, listener, server)
        _stations.append(station)
        return station


def _listen(reactor: Any, listener: Any, server: FlowServer) -> Deferred[Station]:
    listening: Deferred[Any] = listener.listen(server)
    return listening.addCallback(partial(Station, reactor, server))


class Station:
    """A server that listens. Leaving it as a context manager stops it."""

    def __init__(self, reactor: Any, server: FlowServer, port: Any) -> None:
        self.server: FlowServer = server
        self.address: Any = port.getHost()
        """Where it listens, a Twisted address; it has ``host`` and ``port`` for TCP."""
        self._reactor: Any = reactor
        self._port: Any = port
        # Told of how it has stopped, or that the reactor has: then nobody else can tell.
        self._stopped: Queue[Failure | None] = Queue()
        self._hook: Any = reactor.addSystemEventTrigger(
            "after", "shutdown", self._stopped.put, None
        )

    def stop(self) -> None:
        """Take no more flows, break off those that are open, and wait a moment for their handlers.

        The reactor goes on, for other stations. Safe to call again, from any thread but the
        reactor's, and where that has stopped already. Raises RuntimeError in the reactor's thread.
        """
        with _lock:
            if self in _stations:
                _check_thread("Station.stop()")
                _stations.remove(self)
                self._reactor.callFromThread(self._stop)
                if (failure := self._stopped.get()) is not None:
                    failure.raiseException()

    def abandon(self) -> None:
        """Close this process's copies of the sockets, without a word to the peers: after a fork."""
        connections = [connection.transport for connection in self.server.connections]
        for owner in (self._port, *connections):
            if sock := getattr(owner, "socket", None):
                sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _stop(self) -> None:
        Deferred.fromCoroutine(self._close()).addBoth(self._stopped.put)

    async def _close(self) -> None:
        await maybeDeferred(self._port.stopListening)
        if not self.server.numPorts:
            await self.server.stop()
        self._reactor.removeSystemEventTrigger(self._hook)


def _check_thread(what: str) -> None:
    if threading.get_ident() == threadable.ioThread:
        raise RuntimeError(f"{what} waits for the reactor: call it from another thread")


def _running_reactor() -> Any:
    """Return the reactor, running; start it if need be."""
    from twisted.internet import reactor as imported

    reactor: Any = imported
    if not reactor.running:
        _start(reactor)
    return reactor


def _start(reactor: Any) -> None:
    """Run *reactor* in a thread that tgscheduler starts, and return once it runs."""
    started: Queue[threading.Thread | BaseException] = Queue()

    def run() -> None:
        thread = threading.current_thread()
        thread.name = "pyf.station-reactor"
        reactor.callWhenRunning(started.put, thread)
        try:
            reactor.run(installSignalHandlers=False)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            started.put(error)

    # A scheduler of our own: that of the process may sleep for seconds, and hold up its exit.
    scheduler = kronos.ThreadedScheduler()
    scheduler.add_single_task(run, None, 0, kronos.method.threaded, None, None)
    scheduler.start()
    try:
        outcome = started.get(timeout=START_TIMEOUT)
    except Empty:
        outcome = TimeoutError(f"it did not start within {START_TIMEOUT:g} s")
    finally:
        scheduler.running = False
    if isinstance(outcome, BaseException):
        text = f"the reactor cannot run: {outcome}"
        raise RuntimeError(text) from outcome  # noqa: TRY004 - it is no matter of types
    atexit.register(_stop_at_exit, reactor, outcome, os.getpid())


def _stop_at_exit(reactor: Any, thread: threading.Thread, process: int) -> None:
    """Let the handlers return, within bounds, before the interpreter goes."""
    if process == os.getpid() and reactor.running:
        reactor.callFromThread(_break_off, reactor)
        thread.join(STOP_GRACE + 1.0)
        _stations.clear()  # Whoever stops one even later has nobody to wait for.


def _break_off(reactor: Any) -> None:
    """Stop *reactor* without a drain's grace: who exits has nothing more to wait for."""
    for station in _stations:
        station.server.stop()
    reactor.stop()


def _forget_parent() -> None:
    """In a forked child, leave the parent's reactor alone: a new one starts when it is needed.

    The two would share one epoll set, and a connection stays open until both have closed it.
    """
    global _lock  # noqa: PLW0603 - the parent's may be held for ever, by a thread that is not here
    _lock = threading.Lock()
    for station in _stations:
        station.abandon()
    _stations.clear()
    if sys.modules.pop("twisted.internet.reactor", None) is not None:
        del twisted.internet.reactor


os.register_at_fork(after_in_child=_forget_parent)
