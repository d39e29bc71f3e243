"""Ship a Python generator over TCP as if the two processes were one.

:class:`FlowServer` serves flows with a handler; :class:`StationClient` ships them. The packets
themselves, and everything that needs no network, are in :mod:`pyf.transport`.
"""

if __name__ != "pyf.station":
    raise ImportError(
        f"This folder is imported as pyf.station, not as {__name__}: a second name would make "
        "a second copy of every class. Run script/setup, then: import pyf.station"
    )

from pyf.station.auth import shared_secrets
from pyf.station.client import Call, StationClient
from pyf.station.conversation import Conversation
from pyf.station.flow import AsyncClient, AsyncFlow, Client, Flow
from pyf.station.server import FlowServer
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
    ServerError,
    StationError,
    UnsupportedValue,
)

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
    "ProtocolError",
    "RemoteProtocolError",
    "ServerError",
    "StationClient",
    "StationError",
    "UnsupportedValue",
    "shared_secrets",
]
