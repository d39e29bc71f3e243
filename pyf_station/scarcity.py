"""What a listening port does where more clients come than the system takes by itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any, Final

from twisted.logger import LogEvent, Logger

PAUSE: Final = 0.5
"""Seconds for which a port accepts nobody after it could not: it would be asked again at once, and
clients are served again within a second of relief."""

QUIET: Final = 1.0
"""Seconds between two lines about it in the log."""

BACKLOG: Final = 1024
"""Clients that the system keeps until they are accepted. Beyond that it forgets what they send, and
they send it again after 1, 2, 4 seconds: too late for ``Limits.handshake_timeout``."""

TWISTED_BACKLOG: Final = 50
"""That of a port for which nobody chose one."""

_log: Final = Logger()


class Scarcity:
    """Hears what a Twisted port logs, and where it could not accept, has it wait.

    What else it logs is passed on. All in the reactor's thread.
    """

    def __init__(self, port: Any, reactor: Any, clock: Callable[[], float]) -> None:
        self._port = port
        self._reactor = reactor
        self._clock = clock
        self._said = -inf
        self._paused = False
        self._pass_on = port._logger.observer  # noqa: SLF001 - there is no other way to it
        namespace = port._logger.namespace  # noqa: SLF001
        observer: Any = self  # which zope's interfaces know nothing of
        port._logger = Logger(namespace, observer=observer)  # noqa: SLF001

    def __call__(self, event: LogEvent) -> None:
        """Take what the port logs."""
        text = event.get("log_format") or ""
        if "EMFILE" not in text and "Could not accept" not in text:
            self._pass_on(event)
            return
        now = self._clock()
        if now - self._said >= QUIET:
            self._said = now
            where = self._port.getHost()
            _log.warn("{port} waits: the system has no room for another client", port=where)
        if not self._paused:
            self._paused = True
            self._port.stopReading()
            self._reactor.callLater(PAUSE, self._resume)

    def _resume(self) -> None:
        self._paused = False
        if self._port.connected:
            self._port.startReading()


def mind(port: Any, reactor: Any, clock: Callable[[], float]) -> None:
    """Have a *port* take many clients at once, and wait where it cannot accept.

    Does nothing for one that has been told.
    """
    logger = getattr(port, "_logger", None)
    if logger is None or isinstance(logger.observer, Scarcity):
        return
    Scarcity(port, reactor, clock)
    if getattr(port, "backlog", None) == TWISTED_BACKLOG:
        with suppress(OSError):  # It has been closed meanwhile.
            port.socket.listen(BACKLOG)
