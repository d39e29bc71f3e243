"""Ship a Python generator over TCP as if the two processes were one.

:class:`FlowServer` serves flows with a handler; :class:`StationClient` ships them. The packets
themselves, and everything that needs no network, are in :mod:`pyf.transport`.
"""

if __name__ != "pyf.station":
    raise ImportError(
        f"This folder is imported as pyf.station, not as {__name__}: a second name would make "
        "a second copy of every class. Run script/setup, then: import pyf.station"
    )

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyf.transport import (
    AuthenticationFailed,
    BadFlowEnding,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    FlowCancelled,
    FlowRefused,
    Limits,
    LocalProtocolError,
    OutcomeUnknown,
    Packet,
    PacketError,
    PacketTooLarge,
    ProtocolError,
    RemoteProtocolError,
    ResumeRejected,
    ServerError,
    StationError,
    UnsupportedValue,
)

if TYPE_CHECKING:
    from pyf.station.auth import shared_secrets
    from pyf.station.client import Call, StationClient
    from pyf.station.conversation import Conversation
    from pyf.station.flow import AsyncClient, AsyncFlow, Client, Flow
    from pyf.station.server import FlowServer
    from pyf.station.sessions import ResumePolicy
    from pyf.station.store import PostgreSQLStore, SQLiteStore, Store

__all__ = [
    "AsyncClient",
    "AsyncFlow",
    "AuthenticationFailed",
    "BadFlowEnding",
    "Call",
    "Client",
    "ClientError",
    "ConnectFailed",
    "ConnectionLost",
    "Conversation",
    "DeadlineExceeded",
    "Flow",
    "FlowCancelled",
    "FlowRefused",
    "FlowServer",
    "Limits",
    "LocalProtocolError",
    "OutcomeUnknown",
    "Packet",
    "PacketError",
    "PacketTooLarge",
    "PostgreSQLStore",
    "ProtocolError",
    "RemoteProtocolError",
    "ResumePolicy",
    "ResumeRejected",
    "SQLiteStore",
    "ServerError",
    "StationClient",
    "StationError",
    "Store",
    "UnsupportedValue",
    "shared_secrets",
]

# Imported when they are asked for: who ships flows with asyncio needs no Twisted.
_HOMES = {
    "AsyncClient": "flow",
    "AsyncFlow": "flow",
    "Call": "client",
    "Client": "flow",
    "Conversation": "conversation",
    "Flow": "flow",
    "FlowServer": "server",
    "PostgreSQLStore": "store",
    "ResumePolicy": "sessions",
    "SQLiteStore": "store",
    "StationClient": "client",
    "Store": "store",
    "shared_secrets": "auth",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
