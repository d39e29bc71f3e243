"""A server as a Twisted service, also for ``twist pyf-station``."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable
from functools import reduce
from typing import Any, Final

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import MultiService, Service
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.python import usage

from pyf.station.auth import Authenticate, shared_secrets
from pyf.station.credentials import read_secret
from pyf.station.handlers import Handler
from pyf.station.observe import log_events
from pyf.station.server import FlowServer
from pyf.station.status import status_site
from pyf.station.tls import secured
from pyf.transport import Limits

__all__ = ["HandlerNotFound", "StationService", "load_handler"]

DEFAULT_ENDPOINT: Final = "tcp:6789:interface=127.0.0.1"
"""Where a server listens that was not told: on this machine alone."""

# A host has dots, which no kind of endpoint has, or is this machine.
_HOST_PORT: Final = re.compile(
    r"(?:\[(?P<six>[^]]+)\]|(?P<host>[^:\[\]]+\.[^:\[\]]+|localhost)):(?P<port>\d+)"
)
_from_string: Final[Any] = endpoints.serverFromString
_Service: Final[Any] = Service


class HandlerNotFound(LookupError):
    """There is no such handler; its text says what is missing."""


def endpoint_string(text: str) -> str:
    """Return *text*, or Twisted's endpoint string for one that is ``HOST:PORT``."""
    found = _HOST_PORT.fullmatch(text)
    if found is None:
        return text
    kind, host = ("tcp6", found["six"]) if found["six"] else ("tcp", found["host"])
    return f"{kind}:{found['port']}:interface={endpoints.quoteStringArgument(host)}"


def asking_for(secrets: Iterable[str]) -> Authenticate | None:
    """Return what asks clients for one of *secrets*, which ``read_secret`` reads; None for none.

    Raises as that does, and as ``shared_secrets``.
    """
    found = [read_secret(each) for each in secrets]
    return shared_secrets(*found) if found else None


def load_handler(name: str) -> Handler:
    """Return what ``module:name`` names; modules are found from the current folder, too.

    Raises HandlerNotFound, and whatever importing the module raises.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise HandlerNotFound(f"{name!r} is not MODULE:NAME")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - sys.path holds texts
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # The module is there, and imports another one that is not.
        text = f"there is no module {module!r}, from {here} or installed"
        raise HandlerNotFound(text) from error
    try:
        handler: Handler = reduce(getattr, attribute.split("."), found)
    except AttributeError as error:
        raise HandlerNotFound(f"{module} has no {attribute!r}") from error
    return handler


class _Listening(StreamServerEndpointService):
    def stopService(self) -> Any:  # noqa: N802 - Twisted's name
        """Close the port, unless the server has, as it drains: one that is asked twice fails."""
        _Service.stopService(self)
        listening: Any = self._waitingForPort
        listening.cancel()
        return listening.addCallback(_close)


def _close(port: Any) -> Any:
    return None if port is None or getattr(port, "disconnecting", False) else port.stopListening()


class StationService(MultiService):
    """Serves flows with *server*, on the given *endpoints*, for as long as the service runs.

    Endpoints are strings or Twisted's objects; *status* is the one of a page on what goes on, which
    answers until all has stopped. *tls* and *client_ca* are as for ``FlowServer.listen``, which
    raises for them, too. Stopping it drains: what stopService returns fires
    once the open flows have ended, after ``limits.drain_grace`` and a moment at the latest.
    """

    def __init__(
        self,
        server: FlowServer,
        *where: Any,
        status: Any = None,
        tls: Any = None,
        client_ca: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.server: FlowServer = server
        self._status: Any = None
        if status is not None:
            self._status = self._listening(status, status_site(server))
        factory = secured(server, tls, client_ca)
        for each in where:
            self._listening(each, factory).setServiceParent(self)

    def _listening(self, where: Any, factory: Any) -> Any:
        endpoint = where
        if isinstance(where, str):
            endpoint = _from_string(self.server.reactor, endpoint_string(where))
        listening = _Listening(endpoint, factory)
        # A port that is taken is an error at the start, and not one in a log.
        listening._raiseSynchronously = True  # noqa: SLF001 - as strports.service() does
        return listening

    def privilegedStartService(self) -> None:  # noqa: N802 - Twisted's name
        """Listen, while the process may still do so on any port."""
        for each in filter(None, [self._status]):
            each.privilegedStartService()
        super().privilegedStartService()

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        """Listen, where that was not done before."""
        for each in filter(None, [self._status]):
            each.startService()
        super().startService()

    def stopService(self) -> Any:  # noqa: N802 - Twisted's name
        """Close the ports, and drain."""
        stopped: Deferred[Any] = super().stopService()
        status = self._status
        drained = self.server.drain().addCallback(lambda _: stopped)
        drained.addCallback(lambda _: status.stopService() if status is not None else None)
        return drained.addCallback(lambda _: None)


class Options(usage.Options):
    """What ``twist pyf-station`` takes."""

    synopsis = "[options] --handler MODULE:NAME"
    longdesc = (
        "Serves flows of packets over TCP. Example: "
        "twist pyf-station --endpoint tcp:8000 --handler mymodule:handler"
    )
    optFlags: Any = (  # noqa: N815 - Twisted's name
        ["expose-errors", None, "Clients get the text and traceback of a handler's failure."],
        ["log-events", None, "Log each flow, its stalls and its end."],
    )
    optParameters: Any = (  # noqa: N815 - Twisted's name
        ["handler", "h", None, "MODULE:NAME, found from the current folder."],
        ["max-handlers", None, None, "Handlers running at once.", int],
        ["max-clients", None, None, "Connections at once.", int],
        ["status", None, None, "Endpoint of a page on what goes on, such as tcp:8080."],
        ["drain-grace", None, None, "Seconds that open flows have once it stops.", float],
        ["tls-cert", None, None, "Speak TLS with this certificate, a file of PEM."],
        ["tls-key", None, None, "Its private key, if it is not in the same file."],
        ["client-ca", None, None, "Let in clients with a certificate of this authority alone."],
    )

    def __init__(self) -> None:
        super().__init__()
        self["endpoints"] = []
        self["secrets"] = []

    def opt_endpoint(self, endpoint: str) -> None:
        """Where to listen: HOST:PORT, or an endpoint string; may be repeated."""
        self["endpoints"].append(endpoint)

    opt_e = opt_endpoint

    def opt_secret(self, source: str) -> None:
        """Ask clients for the shared secret in env:NAME or file:PATH; may be repeated."""
        self["secrets"].append(source)

    def postOptions(self) -> None:  # noqa: N802 - Twisted's name
        """Check what belongs together. Raises UsageError."""
        if not self["handler"]:
            raise usage.UsageError("--handler MODULE:NAME is needed")
        if not self["tls-cert"] and (self["tls-key"] or self["client-ca"]):
            raise usage.UsageError("--tls-key and --client-ca need --tls-cert")


def makeService(options: Any) -> StationService:  # noqa: N802 - Twisted's name
    """Return the service that *options* describe. Raises UsageError for what cannot be served."""
    from twisted.internet import reactor  # twist has installed the one that was asked for

    given = {name: options[name.replace("_", "-")] for name in ("max_handlers", "max_clients")}
    grace = options["drain-grace"]
    try:
        server = FlowServer(
            load_handler(options["handler"]),
            **{name: value for name, value in given.items() if value is not None},
            expose_errors=bool(options["expose-errors"]),
            observers=[log_events] if options["log-events"] else (),
            limits=Limits() if grace is None else Limits(drain_grace=grace),
            authenticate=asking_for(options["secrets"]),
            reactor=reactor,
        )
        certificate = options["tls-cert"]
        return StationService(
            server,
            *(options["endpoints"] or [DEFAULT_ENDPOINT]),
            status=options["status"],
            tls=(certificate, options["tls-key"] or certificate) if certificate else None,
            client_ca=options["client-ca"],
        )
    except (ImportError, LookupError, OSError, TypeError, ValueError) as error:
        raise usage.UsageError(str(error)) from error
