"""A tap: a proxy before a server that keeps each flow which passes as a recorded one.

What passes is not touched: a tap that cannot make sense of the bytes records nothing of them.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, BinaryIO, Final

from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.portforward import ProxyClientFactory, ProxyFactory, ProxyServer
from twisted.python.failure import Failure

from pyf.station.address import path_of
from pyf.station.cli.access import Server
from pyf.transport import RemoteProtocolError
from pyf.transport.frames import Frame, FrameParser, FrameType, encode_frame
from pyf.transport.limits import MAX_FRAME

_RECORDED: Final = {FrameType.OPEN, FrameType.DATA, FrameType.END, FrameType.ABORT}
_LAST: Final = {FrameType.END, FrameType.ABORT, FrameType.CANCEL}
_log: Final = Logger()


class Tap(ProxyFactory):
    """The factory of a tap into *folder*, before *server*. Raises Failure for a bad certificate."""

    noisy = False

    def __init__(self, folder: Path, server: Server, reactor: Any) -> None:
        super().__init__(server.host, server.port)
        self.reactor: Any = reactor
        self._server = server
        server.secured(None)  # What is of no use is to be told now.
        self.folder: Path = folder
        self._numbers = itertools.count(1)

    def buildProtocol(self, addr: Any) -> Any:  # noqa: ARG002, N802 - Twisted's name
        """Return the protocol of a client."""
        protocol = _Tapped(self)
        protocol.factory = self
        return protocol

    def connect(self, factory: Any) -> None:
        """Connect *factory* to the server."""
        server, secured = self._server, self._server.secured(factory)
        path = path_of(server.host)
        if path is None:
            self.reactor.connectTCP(server.host, server.port, secured)
        else:
            self.reactor.connectUNIX(path, secured)

    def new_path(self) -> Path:
        """Return where the next flow goes."""
        for number in self._numbers:
            path = self.folder / f"{number:06}.flow"
            if not (path.exists() or path.with_suffix(".part").exists()):
                return path
        raise AssertionError("numbers have no end")


class _Onwards(ProxyClientFactory):
    noisy = False

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        """Close the client's connection, and say why."""
        _log.error("the server cannot be reached: {reason}", reason=reason.getErrorMessage())
        super().clientConnectionFailed(connector, reason)


class _Tapped(ProxyServer):
    clientProtocolFactory = _Onwards  # noqa: N815 - Twisted's name
    noisy = False

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._parser: FrameParser | None = FrameParser(MAX_FRAME, MAX_FRAME)
        self._hello = b""
        self._flows: dict[int, tuple[Path, BinaryIO]] = {}

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        """Connect to the server; until then, the client waits."""
        transport: Any = self.transport
        transport.pauseProducing()
        onwards = self.clientProtocolFactory()
        onwards.setServer(self)
        self._tap.connect(onwards)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - Twisted's name
        super().dataReceived(data)
        try:
            self._record(data)
        except (RemoteProtocolError, OSError) as error:
            _log.warn("this connection is recorded no further: {error}", error=error)
            self._parser = None
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802 - Twisted's name
        super().connectionLost(reason)
        self._close()

    def _record(self, data: bytes) -> None:
        if self._parser is None:
            return
        self._parser.receive_data(data)
        while frame := self._parser.next_frame():
            if frame.type == FrameType.HELLO:
                self._parser.allowed = ()
                self._hello = _bytes(frame)
            elif frame.type == FrameType.OPEN:
                self._begin(frame)
            if frame.flow in self._flows:
                self._write(frame)

    def _begin(self, frame: Frame) -> None:
        path = self._tap.new_path()
        file = path.with_suffix(".part").open("xb")
        file.write(self._hello)
        self._flows[frame.flow] = (path, file)

    def _write(self, frame: Frame) -> None:
        path, file = self._flows[frame.flow]
        if frame.type in _RECORDED:
            file.write(_bytes(frame))
        if frame.type in _LAST:
            del self._flows[frame.flow]
            file.close()
            if frame.type == FrameType.END:
                path.with_suffix(".part").replace(path)

    def _close(self) -> None:
        for _, file in self._flows.values():
            file.close()
        self._flows.clear()


def _bytes(frame: Frame) -> bytes:
    return b"".join(encode_frame(FrameType(frame.type), frame.flow, frame.payload))
