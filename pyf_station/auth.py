"""Who a client is: asked before a handler sees anything of its flow."""

from __future__ import annotations

import hashlib
import hmac
import inspect
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any, Final
from uuid import uuid4

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.threads import blockingCallFromThread
from twisted.logger import Logger

from pyf.station.blame import stack
from pyf.station.session import Session
from pyf.transport import AuthenticationFailed, Packet

Authenticate = Callable[[Packet, Any], Any]
"""Called with the header and the client's address; returns the identity, or a promise of it."""

SHORTEST_SECRET: Final = 16
"""Bytes of a shared secret at least: nobody is to guess one."""

_log: Final = Logger()
_in_reactor: Final[Any] = blockingCallFromThread  # which come without types


def shared_secrets(*secrets: str | bytes, field: str = "authtkt") -> Authenticate:
    """Return an ``authenticate`` that asks for one of *secrets* in a *field* of the header.

    Give the new and the old one while clients change over. The identity tells which it was:
    ``"authtkt 1"`` for the first. Raises ValueError for none, or one of less than 16 bytes.
    """
    encoded = [each.encode() if isinstance(each, str) else each for each in secrets]
    if not encoded or min(map(len, encoded)) < SHORTEST_SECRET:
        raise ValueError(f"a shared secret has at least {SHORTEST_SECRET} bytes")
    digests = [hashlib.sha256(each).digest() for each in encoded]

    def authenticate(header: Packet, peer: Any) -> str:  # noqa: ARG001 - where it comes from is no proof
        given = header.get(field)
        data = given.encode() if isinstance(given, str) else given
        digest = hashlib.sha256(data if isinstance(data, bytes) else b"").digest()
        # All of them, and whole digests: the time it takes tells nothing.
        found = [hmac.compare_digest(digest, each) for each in digests]
        if not any(found):
            raise AuthenticationFailed(f"no secret in the header's {field}, or an unknown one")
        return f"{field} {found.index(True) + 1}"

    return authenticate


class Gate:
    """Lets a session through to its handler, or refuses it.

    A coroutine function, and one with ``inlineCallbacks``, is called in the reactor's thread; any
    other in a thread of the server's pool. *server* has both.
    """

    def __init__(self, authenticate: Authenticate, server: Any) -> None:
        if not callable(authenticate):
            raise TypeError(f"authenticate is called with header and peer; {authenticate!r} is not")
        self._authenticate = authenticate
        self._server = server
        function: Any = inspect.unwrap(authenticate)
        call = getattr(function, "__call__", None)  # noqa: B004 - an object may have an async one
        self._on_reactor = any(
            inspect.iscoroutinefunction(each) or inspect.isgeneratorfunction(each)
            for each in (function, call)
        )

    def pass_in_thread(self, session: Session) -> bool:
        """Ask about *session*, in its handler's thread; return whether it may go on."""
        if session.given_up:
            return False
        try:
            if self._on_reactor:
                identity = _in_reactor(self._server.reactor, self._ask, session)
            else:
                identity = self._call(session)
                if isinstance(identity, Deferred):
                    identity = _in_reactor(self._server.reactor, lambda: identity)
        except BaseException as error:  # noqa: BLE001 - whatever it was, nobody passes
            return self._refuse(session, error)
        return _admit(session, identity)

    async def pass_on_reactor(self, session: Session) -> bool:
        """Ask about *session*, whose handler runs on the reactor."""
        if session.given_up:
            return False
        try:
            if self._on_reactor:
                identity = await self._ask(session)
            else:
                # In a list, for it may be a Deferred, which no Deferred takes for a result.
                [identity] = await self._server.call_in_thread(lambda: [self._call(session)])
                if isinstance(identity, Deferred):
                    identity = await identity
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            return self._refuse(session, error)
        return _admit(session, identity)

    def _call(self, session: Session) -> Any:
        header = Packet() if session.header is None else session.header
        return self._authenticate(header, session.carrier.peer)

    def _ask(self, session: Session) -> Deferred[Any]:
        result = self._call(session)
        return (
            ensureDeferred(result) if inspect.iscoroutine(result) else maybeDeferred(lambda: result)
        )

    def _refuse(self, session: Session, error: BaseException) -> bool:
        if session.ending is None:
            # Neither the log nor the client is told the text: it may quote what was sent.
            if isinstance(error, AuthenticationFailed):
                _log.warn("a flow of {peer} is not authenticated", peer=session.carrier.peer)
            else:
                _log.error(
                    "authenticate failed with {name}, as error {error_id}:\n{frames}",
                    name=type(error).__name__,
                    error_id=uuid4().hex[:12],
                    frames=stack(error),
                )
            refuse(session)
        return False


def refuse(session: Session) -> None:
    """Refuse *session* as that of nobody known. Callable from any thread."""
    error = AuthenticationFailed("the server does not know who the client is")
    session.carrier.call_soon(partial(session.fail, error, "refused", "unauthenticated"))


def _admit(session: Session, identity: object) -> bool:
    if identity is not None:
        session.identity = identity
    session.carrier.call_soon(session.recognise)
    return not session.given_up


def exposed(port: Any) -> bool:
    """Whether *port* can be reached from other machines, without TLS."""
    factory = port.factory
    while hasattr(factory, "wrappedFactory"):
        if type(factory).__name__ == "TLSMemoryBIOFactory":
            return False
        factory = factory.wrappedFactory
    host = getattr(port.getHost(), "host", None)
    try:
        return isinstance(host, str) and not ip_address(host).is_loopback
    except ValueError:
        return False
