"""TLS at both ends: contexts from a few paths, and the blocking client's wire inside TLS.

TLS 1.3 unless a context of your own says otherwise. The server's side needs the extra
``pyf.station[tls]``; the blocking client's needs nothing.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Any, Final

from pyf.station.address import address_text, path_of
from pyf.station.wire import CLOSED, RECEIVE_BYTES, Wire, connect, deadline_error
from pyf.transport import ConnectFailed, Limits
from pyf.transport.limits import LONGEST_WAIT

Paths = tuple[str | os.PathLike[str], str | os.PathLike[str]]
"""Where a certificate is, with its chain if it has one, and its private key; both as PEM."""

CUT: Final = "the TLS stream was cut"

ClientTls = bool | str | os.PathLike[str] | ssl.SSLContext

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)


def client_context(host: str, tls: ClientTls, certificate: Paths | None) -> ssl.SSLContext | None:
    """Return the context of a client that connects to *host*, None for a plain connection.

    *tls* is True for the authorities that the system trusts, the path of a private one, or a
    context. Raises ValueError for a *certificate* that would not be used, and for a *host* that has
    no name to be verified; OSError for files that cannot be read.
    """
    if tls is not False and path_of(host) is not None:
        raise ValueError(f"tls= is for a host, whose name is verified; {host!r} has none")
    if isinstance(tls, ssl.SSLContext) or tls is False:
        if certificate is not None:
            raise ValueError("a certificate is for tls=True, or the path of an authority")
        return tls or None
    authority = None if tls is True else os.fspath(tls)
    with _naming(authority):
        context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate is not None:
        with _naming(" with ".join(str(each) for each in certificate)):
            context.load_cert_chain(*certificate)
    return context


@contextmanager
def _naming(files: str | None) -> Generator[None]:
    """Have an OSError say which *files* it is about: those of the ssl module don't."""
    try:
        yield
    except OSError as error:
        error.filename = files
        raise


def server_context(tls: Any, client_ca: str | os.PathLike[str] | None) -> Any:
    """Return the Twisted context factory of a server.

    *tls* is the paths of a certificate and its key, or a context factory, which is given back.
    With *client_ca*, only clients with a certificate from that authority are let in.
    """
    if not isinstance(tls, tuple | list):
        if client_ca is not None:
            raise ValueError("client_ca is for paths: let the context factory say whom it trusts")
        return tls
    ssl_of_twisted = _twisted()
    trust: Any = ssl_of_twisted.trustRootFromCertificates
    paths: Any = tls
    return ssl_of_twisted.CertificateOptions(
        **_identity(paths),
        raiseMinimumTo=ssl_of_twisted.TLSVersion.TLSv1_3,
        trustRoot=None if client_ca is None else trust(_certificates(client_ca)),
    )


def _twisted() -> Any:
    try:
        from twisted.internet import ssl as found
    except ImportError as error:
        raise ImportError(f"TLS needs more: pip install 'pyf.station[tls]' ({error})") from error
    return found


def _certificates(path: str | os.PathLike[str]) -> list[Any]:
    found = _CERTIFICATE.findall(Path(path).read_bytes())
    if not found:
        raise ValueError(f"there is no certificate in {os.fspath(path)}")
    return [_twisted().Certificate.loadPEM(pem) for pem in found]


def _identity(paths: Paths) -> dict[str, Any]:
    """Return who one is, as options of Twisted's."""
    certificate, *chain = (each.original for each in _certificates(paths[0]))
    identity = {"certificate": certificate, "extraCertChain": chain}
    try:
        key = _twisted().KeyPair.load(Path(paths[1]).read_bytes(), _pem())
        identity["privateKey"] = key.original
        # What does not fit together is to be told now.
        _twisted().CertificateOptions(**identity).getContext()
    except Exception as error:
        if reason := _reasons(error):
            raise ValueError(f"{paths[1]} is no key for {paths[0]}: {reason}") from error
        raise
    return identity


def secured(factory: Any, tls: Any, client_ca: str | os.PathLike[str] | None) -> Any:
    """Return what is to listen for *factory*, in TLS unless *tls* is None.

    Raises ValueError for a *client_ca* that would not be used, and as ``server_context`` does.
    """
    if tls is None:
        if client_ca is not None:
            raise ValueError("client_ca is of no use without tls")
        return factory
    context = server_context(tls, client_ca)
    from twisted.protocols.tls import TLSMemoryBIOFactory

    return TLSMemoryBIOFactory(context, isClient=False, wrappedFactory=factory)


def secured_client(
    factory: Any, host: str, tls: bool | str | os.PathLike[str], certificate: Paths | None
) -> Any:
    """Return what is to connect to *host* for *factory* of Twisted's, in TLS unless it is False.

    *tls* and *certificate* are a client's; it raises as ``secured`` does.
    """
    if tls is False:
        return factory
    ssl_of_twisted = _twisted()
    trust: Any = ssl_of_twisted.trustRootFromCertificates
    options = {} if certificate is None else _identity(certificate)
    options["raiseMinimumTo"] = ssl_of_twisted.TLSVersion.TLSv1_3
    creator = ssl_of_twisted.optionsForClientTLS(
        host,
        None if tls is True else trust(_certificates(tls)),
        extraCertificateOptions=options,
    )
    from twisted.protocols.tls import TLSMemoryBIOFactory

    return TLSMemoryBIOFactory(creator, isClient=True, wrappedFactory=factory)


def _pem() -> int:
    from OpenSSL.crypto import FILETYPE_PEM

    return FILETYPE_PEM


def peer_certificate(transport: Any) -> object:
    """Return the certificate of the client at *transport*, a ``cryptography`` one, or None."""
    certificate = transport.getPeerCertificate()
    return None if certificate is None else certificate.to_cryptography()


def failure_text(error: BaseException | None) -> str:
    """Return what failed in TLS at the server, in a few words; "" for another error."""
    text = _reasons(error)
    plain = ("wrong version number", "http request", "unsupported protocol", "unknown protocol")
    hint = ": the client does not speak TLS" if any(each in text for each in plain) else ""
    return f"TLS failed: {text}{hint}" if text else ""


def _reasons(error: BaseException | None) -> str:
    """Return what pyOpenSSL says in *error*; "" for another one."""
    if error is None or not type(error).__module__.startswith("OpenSSL."):
        return ""
    stack = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(entry[-1] for entry in stack) or str(error) or "the connection was cut"


class TlsPipe:
    """TLS between a client and the server *host*, without I/O: bytes in, bytes out."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self.ending: str = ""
        """Why nothing more will come."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def shake_hands(self) -> bool:
        """Go on with the handshake; return whether it is done. Raises ssl.SSLError.

        In each case there may be something ``to_send()``: an error's alert, too.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def receive(self, data: bytes) -> None:
        """Take what came, b"" where nothing more will."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def read(self) -> bytes:
        """Return what has come, decrypted; where it is the last, ``ending`` says why."""
        found: list[bytes] = []
        try:
            while plain := self._tls.read(RECEIVE_BYTES):
                found.append(plain)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLEOFError:
            self.ending = CUT
        except ssl.SSLZeroReturnError:
            self.ending = CLOSED
        except ssl.SSLError as error:
            self.ending = reason_of(error)
        else:
            self.ending = CLOSED
        return b"".join(found)

    def write(self, data: bytes) -> None:
        """Have *data* encrypted, for ``to_send()``. Raises ssl.SSLError."""
        if data:
            self._tls.write(data)

    def close(self) -> None:
        """Say goodbye, with the next ``to_send()``. Raises nothing; nothing is read any more."""
        with suppress(ssl.SSLError):
            self._tls.unwrap()

    def to_send(self) -> list[bytes]:
        """Return what is to be sent now, and forget it."""
        encrypted = self._outgoing.read()
        return [encrypted] if encrypted else []


class Channel:
    """The state of TLS on one connected socket to *host*, its handshake done.

    Raises OSError where it fails, or is not done by *until*, a time of the monotonic clock; the
    socket is closed then.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, host: str, until: float
    ) -> None:
        self.pipe: TlsPipe = TlsPipe(context, host)
        try:
            self._shake_hands(sock, until)
        except BaseException:
            sock.close()
            raise

    def _shake_hands(self, sock: socket.socket, until: float) -> None:
        done = False
        while not done:
            try:
                done = self.pipe.shake_hands()
            finally:
                self._send(sock, until)  # The server is told what was wrong, too.
            if not done:
                sock.settimeout(max(0.001, until - time.monotonic()))
                self.pipe.receive(sock.recv(RECEIVE_BYTES))

    def _send(self, sock: socket.socket, until: float) -> None:
        sock.settimeout(max(0.001, until - time.monotonic()))
        sock.sendall(b"".join(self.pipe.to_send()))


def dial(
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    limits: Limits,
    timeout: float | None = None,
) -> Wire:
    """Return a wire to a server, inside TLS with a *context*.

    Raises ConnectFailed, or DeadlineExceeded where the *timeout* of the call is over before.
    """
    deadline = inf if timeout is None else time.monotonic() + timeout
    sock = connect(host, port, limits, timeout)
    if context is None:
        return Wire(sock)
    until = time.monotonic() + min(limits.handshake_timeout, LONGEST_WAIT)
    try:
        channel = Channel(sock, context, host, min(until, deadline))
    except OSError as error:
        if isinstance(error, TimeoutError) and time.monotonic() >= deadline:
            raise deadline_error(timeout or 0.0) from None
        raise not_secured(host, port, error) from error
    return TlsWire(channel, sock)


def not_secured(host: str, port: int, error: OSError) -> ConnectFailed:
    """Return the error of a handshake that failed with *error*."""
    text = f"cannot connect to {address_text(host, port)}: {reason_of(error)}"
    return ConnectFailed(text, host=host, port=port)


_FAILURES: Final[dict[str | None, str]] = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS there",
    "PACKET_LENGTH_TOO_LONG": "the server does not speak TLS there",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server wants a certificate of the client",
}


def reason_of(error: OSError) -> str:
    """Return what failed in TLS at the client, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "the TLS handshake was not complete in time (Limits.handshake_timeout)"
    if isinstance(error, ssl.SSLEOFError):
        return "the server closed the connection within the TLS handshake"
    if isinstance(error, ssl.SSLError):
        alert = (error.reason or str(error)).lower().replace("_", " ")
        return _FAILURES.get(error.reason, f"TLS failed: {alert}")
    return error.strerror or str(error)


class TlsWire(Wire):
    """A wire inside TLS. What it encrypts goes the way of every other byte."""

    failure: str
    ending: str
    in_place = False

    def __init__(self, channel: Channel, sock: socket.socket) -> None:
        super().__init__(sock)
        self._heard = True
        self._pipe = channel.pipe

    def write(self, produce: Any) -> None:
        """Write what *produce* returns, encrypted; raises nothing."""
        super().write(lambda: self._encrypted(b"".join(produce())))

    def _encrypted(self, data: bytes) -> list[bytes]:
        try:
            self._pipe.write(data)
        except ssl.SSLError as error:
            self.failure = self.failure or reason_of(error)
        return self._pipe.to_send()

    def read(self) -> bytes | None:
        """Return what has come, None if nothing has; where it also sets ``ending``, the last.

        What TLS says to itself, tickets for one thing, came as well: then this is b"".
        """
        data = super().read()
        if data is None:
            return None
        pipe = self._pipe
        pipe.receive(data)
        found = pipe.read()
        if pipe.ending:
            cut = pipe.ending == CUT and self.ending
            self.ending = f"{CUT}: {self.ending}" if cut else pipe.ending
        return found
