"""Every error of PyF.Station, in one tree.

.. code-block:: text

    StationError
    ├── ConnectFailed        (ConnectionError)  no connection could be made
    ├── ConnectionLost       (ConnectionError)  the connection ended before the flow did
    │   ├── OutcomeUnknown                      … after the whole flow was sent: no result came
    │   └── ResumeRejected                      … and the server does not let it go on
    ├── ServerError                             the handler failed, or said ``client.error(…)``
    ├── ClientError                             the client's generator failed (raised in ``flow``)
    ├── BadFlowEnding                           the connection ended before the flow (as above)
    ├── FlowRefused                             no handler was started: safe to try elsewhere
    ├── AuthenticationFailed                    the server does not know who the client is
    ├── FlowCancelled                           the other side, or this one, gave the flow up
    ├── DeadlineExceeded     (TimeoutError)     the time given to a call, or to a wait, is over
    ├── PacketError                             a packet cannot travel
    │   ├── UnsupportedValue (TypeError)        it holds a value that does not travel
    │   └── PacketTooLarge   (ValueError)       it is larger than ``Limits.max_packet``
    └── ProtocolError
        ├── LocalProtocolError                  this side made a move that is not allowed
        └── RemoteProtocolError                 the peer did

An error states its facts as attributes, named in its class; ``str(error)`` is the sentence for
people.
"""

from __future__ import annotations

from typing import Any, ClassVar


class StationError(Exception):
    """Root of every error that PyF.Station raises on purpose.

    Takes the sentence for people, and the facts as keyword arguments. Only the facts that
    the class (or one of its bases) declares by annotation are accepted.
    """

    _declared: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        facts = (name for name in cls.__annotations__ if not name.startswith("_"))
        cls._declared = cls._declared.union(facts)

    def __init__(self, message: str = "", /, **facts: Any) -> None:
        super().__init__(message)
        if unknown := facts.keys() - self._declared:
            raise TypeError(f"{type(self).__name__} has no fact named {', '.join(sorted(unknown))}")
        for name, value in facts.items():
            setattr(self, name, value)


class ConnectFailed(StationError, ConnectionError):
    """No connection could be made: refused, unreachable, or the name is not known."""

    host: str = ""
    """Host name or address, as given."""
    port: int = 0
    """TCP port."""
    tried: tuple[str, ...] = ()
    """One sentence for each address that was tried."""


class ConnectionLost(StationError, ConnectionError):
    """The connection ended before the flow did. The handler did not report success."""

    sent: int = 0
    """Packets that had been given to the socket."""
    consumed: int = 0
    """Packets that the handler had taken, as last reported."""
    option: str = ""
    """The option of ``Limits`` whose time was over, where that is why; ``"ping_interval"`` for a
    server that was silent."""
    limit: float | None = None
    """That time, in seconds."""


class OutcomeUnknown(ConnectionLost):
    """The whole flow was sent, but no result came: the handler may have succeeded, or not."""


class ResumeRejected(ConnectionLost):
    """The flow lost its connection, and cannot go on over another one. This is final.

    The handler has not succeeded with the whole flow.
    """

    code: str = ""
    """Why: ``"other_boot"`` (the server was restarted), ``"unknown_session"`` (the session has
    ended: its time was over, say), ``"gap"``, ``"not_resumable"``, ``"expired"`` (no server
    answered in time) or ``"failed"`` (this side did, as it tried to connect)."""


class ServerError(StationError):
    """The handler failed, or said ``client.error(…)``."""

    code: str = ""
    """``"handler_failed"`` for an exception that the handler raised, ``"handler_error"`` for one
    it reported."""
    error_class: str = ""
    """Name of the exception's class on the server."""
    error_id: str = ""
    """Identifier under which the server has logged it."""
    message: str | None = None
    """The exception's text, where the server exposes it or the handler chose to say it."""
    traceback: str | None = None
    """The server's formatted traceback, where the server exposes it."""
    sent: int = 0
    """Packets that had been given to the socket."""
    consumed: int = 0
    """Packets that the handler had taken."""


class ClientError(StationError):
    """The client's generator failed. Raised in the handler's flow, after the packets before it."""

    error_class: str = ""
    """Name of the exception's class on the client."""
    sent: int = 0
    """Packets that the client had sent."""


class BadFlowEnding(StationError):
    """The flow ended without an ``END``: the connection, or the file, was cut."""

    received: int = 0
    """Packets that had arrived."""


class FlowRefused(StationError):
    """The flow was refused before a handler saw it. It is safe to send it again, or elsewhere."""

    code: str = ""
    """``"busy"``, ``"draining"``, ``"too_many_flows"`` or ``"not_resumable"``."""


class AuthenticationFailed(StationError):
    """The server does not know who the client is. No handler was started.

    Raised by ``authenticate`` on the server: its text stays there, and is not logged either.
    """


class FlowCancelled(StationError):
    """The flow was given up, by the other side or by this one."""

    code: str = ""
    """``"draining"`` where the server could wait for its handler no longer."""


class DeadlineExceeded(StationError, TimeoutError):
    """The time that was given is over."""

    timeout: float = 0.0
    """The time that was given, in seconds."""


class PacketError(StationError):
    """A packet cannot travel. Nothing of it has left."""


class UnsupportedValue(PacketError, TypeError):
    """A packet holds a value of a type that does not travel."""

    path: str = ""
    """Where it is: ``order.lines[3].price``."""
    value_type: str = ""
    """Name of its type."""


class PacketTooLarge(PacketError, ValueError):
    """A packet is larger, encoded, than the receiver takes, or holds more values."""

    size: int = 0
    """Bytes that the packet takes; values, where the option is ``max_objects``."""
    limit: int = 0
    """What it may take."""
    option: str = ""
    """The option that sets the limit."""


class ProtocolError(StationError):
    """A move that the protocol does not allow. The connection is of no use any more."""

    code: str = ""
    """Machine-readable name, listed in the wire specification."""


class LocalProtocolError(ProtocolError):
    """This side tried a move that the protocol does not allow. Nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow."""

    limit: int | None = None
    """The limit that was passed, where it was a limit."""
    actual: int | None = None
    """The value that passed it."""
    option: str = ""
    """The option that sets the limit."""


def packet_too_large(size: int, limit: int, option: str) -> PacketTooLarge:
    """Return the error of a packet that the peer does not take."""
    return PacketTooLarge(
        f"a packet of {size} bytes, where the peer takes {limit} (its Limits.{option})",
        size=size,
        limit=limit,
        option=option,
    )
