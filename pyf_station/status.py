"""A page on what a server does now, with what load balancers and Prometheus ask for beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.web.resource import Resource
from twisted.web.server import Site

from pyf.station.metrics import exposition
from pyf.station.observe import Event
from pyf.station.server import FlowServer
from pyf.station.statuspage import page

__all__ = ["status_site"]

TEXT: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"

Answer = tuple[int, str, bytes]

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_METHODS: Final = (b"GET", b"HEAD")
_NOT_ALLOWED: Final[Answer] = (405, TEXT, b"GET or HEAD\n")

_Resource: Final[Any] = Resource
_Site: Final[Any] = Site


class _Status(_Resource):
    """Answers GET and HEAD with what the function for a path gives."""

    isLeaf = True  # noqa: N815 - Twisted's name

    def __init__(self, answers: dict[bytes, Callable[[], Answer]]) -> None:
        super().__init__()
        self._answers = answers

    def render(self, request: Any) -> bytes:
        """Answer; what is no GET and no HEAD is not for us."""
        answer = self._answers.get(request.path, _nowhere)
        code, kind, body = answer() if request.method in _METHODS else _NOT_ALLOWED
        request.setResponseCode(code)
        for name, value in {"Content-Type": kind, **_HEADERS}.items():
            request.setHeader(name, value)
        return body


def _nowhere() -> Answer:
    return 404, TEXT, b"not found\n"


def status_site(server: FlowServer) -> Any:
    """Return a ``twisted.web`` site for *server*, to be given to a port of its own.

    ``/`` is the page, ``/health/live`` says 200 while the process answers, ``/health/ready`` 503
    once the server is draining, and ``/metrics`` is for Prometheus (404 without its library). Ask
    for it before the server listens. It shows what clients sent as headers, with secrets masked:
    let it listen where only those who run the server come.
    """
    observed = server.observe(_nothing)
    metrics = exposition(server)

    def ready() -> Answer:
        return (503, TEXT, b"draining\n") if server.stopping else (200, TEXT, b"ready\n")

    answers: dict[bytes, Callable[[], Answer]] = {
        b"/": lambda: (200, HTML, page(server, observed).encode()),
        b"/health/live": lambda: (200, TEXT, b"alive\n"),
        b"/health/ready": ready,
    }
    if metrics is not None:
        answers[b"/metrics"] = lambda: (200, *metrics())
    site = _Site(_Status(answers), reactor=server.reactor)
    site.noisy = False
    site.displayTracebacks = False
    site.log = lambda _: None  # A line for each look of a load balancer helps nobody.
    return site


def _nothing(event: Event) -> None:
    """Observe nothing: the page looks for itself."""
