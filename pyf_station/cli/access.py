"""How a command is let in by a server, and whom a server lets in: TLS, and a shared secret."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import reduce, wraps
from typing import Any, Final, NamedTuple, TypeVar

import click

from pyf.station.address import address_text, path_of
from pyf.station.cli.common import Address, Decorator, Failure
from pyf.station.credentials import presenting, read_secret
from pyf.station.tls import Paths, client_context, dial, secured, secured_client
from pyf.station.wire import Wire
from pyf.transport import Limits

Client = TypeVar("Client")

_FILE: Final = click.Path(exists=True, dir_okay=False)
_CLIENT_TLS: Final[tuple[Decorator, ...]] = (
    click.option("--tls", is_flag=True, help="Speak TLS, with a server that the system trusts."),
    click.option("--ca", type=_FILE, help="Speak TLS, with a server of this authority."),
    click.option("--cert", type=_FILE, help="The certificate to show, of PEM."),
    click.option("--key", type=_FILE, help="Its private key, if it is not in the same file."),
)
_CLIENT_SECRET: Final[Decorator] = click.option(
    "--secret",
    metavar="SOURCE",
    help="The shared secret, for the header's field authtkt: env:NAME or file:PATH.",
)
_SERVER_TLS: Final[tuple[Decorator, ...]] = (
    click.option("--tls-cert", type=_FILE, help="Speak TLS with this certificate, of PEM."),
    click.option("--tls-key", type=_FILE, help="Its private key, if it is not in the same file."),
    click.option("--client-ca", type=_FILE, help="Let in clients of this authority alone."),
)
_SERVER_SECRETS: Final[Decorator] = click.option(
    "--secret",
    "secrets",
    metavar="SOURCE",
    multiple=True,
    help="Ask for a shared secret, in the header's field authtkt: env:NAME or file:PATH. May be "
    "repeated, while clients change over.",
)


class Server(NamedTuple):
    """A server that a command is to talk to."""

    host: str
    port: int
    tls: bool | str = False
    certificate: Paths | None = None
    secret: str | None = None

    def client(self, make: Callable[..., Client], limits: Limits | None = None) -> Client:
        """Return a client of it, a *make* of ``StationClient``."""
        interceptors = [] if self.secret is None else [presenting(self.secret)]
        return make(
            *(self.host, self.port, True),
            tls=self.tls,
            certificate=self.certificate,
            interceptors=interceptors,
            limits=limits,
        )

    def dial(self, limits: Limits) -> Wire:
        """Return a connection to it; raises as ``StationClient.call`` does."""
        context = client_context(self.host, self.tls, self.certificate)
        return dial(self.host, self.port, context, limits)

    def secured(self, factory: Any) -> Any:
        """Return what is to connect for *factory*, of Twisted's."""
        with _in_a_line():
            return secured_client(factory, self.host, self.tls, self.certificate)

    def __str__(self) -> str:
        return address_text(self.host, self.port)


class Access(NamedTuple):
    """Whom a server lets in, as its options say."""

    certificate: Paths | None
    client_ca: str | None
    secrets: tuple[str, ...]

    def secured(self, factory: Any, endpoints: Iterable[str]) -> Any:
        """Return what is to listen for *factory* on *endpoints*."""
        if self.certificate is not None and any(each.startswith("ssl:") for each in endpoints):
            raise click.UsageError("--tls-cert and an endpoint ssl: would be TLS inside TLS")
        with _in_a_line():
            return secured(factory, self.certificate, self.client_ca)

    def authenticate(self) -> Any:
        """Return who asks for a secret, None if nobody does."""
        from pyf.station.service import asking_for  # needs Twisted, which clients do without

        with _about_secrets():
            return asking_for(self.secrets)

    def arguments(self) -> list[str]:
        """Return the options again, for a worker."""
        certificate, key = self.certificate or (None, None)
        named = {"--tls-cert": certificate, "--tls-key": key, "--client-ca": self.client_ca}
        given = [(name, str(value)) for name, value in named.items() if value is not None]
        given += [("--secret", source) for source in self.secrets]
        return [text for pair in given for text in pair]


def connecting(*, secret: bool = True) -> Decorator:
    """Give a command the options of a client: for its ``address``, it gets a ``server``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def connect(*args: Any, address: Address.Found | None, **options: Any) -> None:
            mine = {name: options.pop(name) for name in ("tls", "ca", "cert", "key")}
            mine["source"] = options.pop("secret", None)
            server = None if address is None else _server(address, **mine)
            command(*args, server=server, **options)

        return _with(connect, *_CLIENT_TLS, *[_CLIENT_SECRET][:secret])

    return decorate


def listening(*, secret: bool = True) -> Decorator:
    """Give a command the options of a server: it gets an ``access``."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def listen(*args: Any, **options: Any) -> None:
            mine = {name: options.pop(name) for name in ("tls_cert", "tls_key", "client_ca")}
            access = _access(**mine, secrets=options.pop("secrets", ()))
            command(*args, access=access, **options)

        return _with(listen, *_SERVER_TLS, *[_SERVER_SECRETS][:secret])

    return decorate


def _with(command: Callable[..., None], *options: Decorator) -> Callable[..., None]:
    return reduce(lambda made, option: option(made), reversed(options), command)


def _server(
    address: Address.Found,
    tls: bool,
    ca: str | None,
    cert: str | None,
    key: str | None,
    source: str | None,
) -> Server:
    secure = tls or ca is not None or address.tls
    if secure and path_of(address.host) is not None:
        raise click.UsageError("TLS is for HOST:PORT, not for unix:PATH")
    if key is not None and cert is None:
        raise click.UsageError("--key needs --cert")
    if cert is not None and not secure:
        raise click.UsageError("--cert needs --tls or --ca")
    paths = None if cert is None else (cert, key or cert)
    with _about_secrets():
        secret = None if source is None else read_secret(source)
    return Server(address.host, address.port, ca or secure, paths, secret)


@contextmanager
def _about_secrets() -> Generator[None]:
    try:
        yield
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--secret") from error


@contextmanager
def _in_a_line() -> Generator[None]:
    try:
        yield
    except (ImportError, ValueError) as error:
        raise Failure(str(error)) from error


def _access(
    tls_cert: str | None, tls_key: str | None, client_ca: str | None, secrets: tuple[str, ...]
) -> Access:
    if tls_cert is None and (tls_key or client_ca):
        raise click.UsageError("--tls-key and --client-ca need --tls-cert")
    paths = None if tls_cert is None else (tls_cert, tls_key or tls_cert)
    return Access(paths, client_ca, secrets)
