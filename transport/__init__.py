"""What crosses the wire: packets, their encoding, and one state machine for both ends.

Pure: no socket, no thread, no clock, no event loop. Start with :class:`Packet`;
:class:`Connection` is for those who write a client or a server.
"""

if __name__ != "pyf.transport":
    raise ImportError(
        f"This folder is imported as pyf.transport, not as {__name__}: a second name would make "
        "a second copy of every class. Run script/setup, then: import pyf.transport"
    )

from pyf.transport.connection import Connection
from pyf.transport.errors import (
    AuthenticationFailed,
    BadFlowEnding,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    FlowCancelled,
    FlowRefused,
    LocalProtocolError,
    OutcomeUnknown,
    PacketError,
    PacketTooLarge,
    ProtocolError,
    RemoteProtocolError,
    ResumeRejected,
    ServerError,
    StationError,
    UnsupportedValue,
)
from pyf.transport.limits import Limits
from pyf.transport.packet import Packet
from pyf.transport.record import decode_packet_flow, encode_packet_flow
from pyf.transport.speed import encode_packet
from pyf.transport.states import Role

__all__ = [
    "AuthenticationFailed",
    "BadFlowEnding",
    "ClientError",
    "ConnectFailed",
    "Connection",
    "ConnectionLost",
    "DeadlineExceeded",
    "FlowCancelled",
    "FlowRefused",
    "Limits",
    "LocalProtocolError",
    "OutcomeUnknown",
    "Packet",
    "PacketError",
    "PacketTooLarge",
    "ProtocolError",
    "RemoteProtocolError",
    "ResumeRejected",
    "Role",
    "ServerError",
    "StationError",
    "UnsupportedValue",
    "decode_packet_flow",
    "encode_packet",
    "encode_packet_flow",
]
