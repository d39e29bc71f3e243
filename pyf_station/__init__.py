"""Ship a Python generator over TCP as if the two processes were one.

:class:`FlowServer` serves flows with a handler; :class:`StationClient` ships them. The packets
themselves, and everything that needs no network, are in :mod:`pyf.transport`.
"""

if __name__ != "pyf.station":
    raise ImportError(
        f"This folder is imported as pyf.station, not as {__name__}: a second name would make "
        "a second copy of every class. Run script/setup, then: import pyf.station"
    )

from pyf.station.client import Call, StationClient
from pyf.station.conversation import Conversation
from pyf.station.flow import AsyncClient, AsyncFlow, Client, Flow
from pyf.station.server import FlowServer
from pyf.station.sessions import ResumePolicy
from pyf.station.store import PostgreSQLStore, SQLiteStore, Store
from pyf.transport import (
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

__all__ = [
    "AsyncClient",
    "AsyncFlow",
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
]
