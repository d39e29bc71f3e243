"""Where a server is: at a host and a port, or at a socket of this machine's file system."""

from __future__ import annotations

import socket
from typing import Any, Final

UNIX: Final = "unix:"
"""How a host begins that is the path of a socket: ``"unix:/run/station.sock"``. It has no port."""


def path_of(host: str) -> str | None:
    """Return the path that *host* gives, None where it is the name or address of a host."""
    return host.removeprefix(UNIX) if host.startswith(UNIX) else None


def at_path(host: str) -> list[tuple[Any, ...]]:
    """Return what ``getaddrinfo`` would for the path that *host* gives; nothing where none is."""
    path = path_of(host)
    if path is None:
        return []
    family: Any = getattr(socket, "AF_UNIX", None)  # which not all systems have
    return [(family, socket.SOCK_STREAM, 0, "", path)]


def address_text(host: str, port: int) -> str:
    """Return how people write the address: ``HOST:PORT``, with brackets for IPv6, or the path's."""
    if path_of(host) is not None:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
