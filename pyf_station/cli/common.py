"""What the commands share: their failures, their arguments, what they write."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import IO, Any, Final, NamedTuple

import click

from pyf.station import ndjson
from pyf.station.address import path_of
from pyf.station.base import DEFAULT_PORT
from pyf.transport import Limits, Packet, StationError
from pyf.transport.limits import GIB, KIB, MIB

_ADDRESS: Final = re.compile(
    r"(?:(?P<kind>tcp|tls):)?(?:host=)?(?:\[(?P<six>[^]]+)\]|(?P<host>[^:\[\]]+))?:(?:port=)?(?P<port>\d+)"
)
_SIZES: Final = {"": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "K": KIB, "M": MIB, "G": GIB}


class Failure(click.ClickException):
    """An ordinary failure: one line on stderr, and exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:  # noqa: ARG002 - click's signature
        """Say it."""
        say(self.message)


class InputError(ValueError):
    """What was to be sent is not what it should be."""


class Commands(click.Group):
    """Commands that end as those of Unix do."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; failures become a line and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            # Whoever read our output has gone: no word about it, nor when Python flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(128 + signal.SIGPIPE)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise Failure(f"{where}{error.strerror or error}") from error
        except (StationError, InputError) as error:
            raise Failure(str(error)) from error


class Address(click.ParamType[Any]):
    """HOST:PORT, [HOST]:PORT for IPv6, or an endpoint string: ``tcp:…``, ``tls:…``, ``unix:…``."""

    class Found(NamedTuple):
        """What an address says."""

        host: str
        port: int
        tls: bool

    name = "HOST:PORT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Found:
        """Return what *value* says; without a host it is this machine."""
        if path_of(value):
            return self.Found(value, DEFAULT_PORT, tls=False)
        found = _ADDRESS.fullmatch(value)
        port = int(found["port"]) if found else 0
        if found is None or not 0 < port < 2**16:
            self.fail(f"{value!r} is neither HOST:PORT nor unix:PATH", param, ctx)
        host = found["six"] or found["host"] or "127.0.0.1"
        return self.Found(host, port, found["kind"] == "tls")


class Pair(click.ParamType[Any]):
    """K=V for a text, K:=JSON for anything else."""

    name = "K=V"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Return key and value."""
        key, sign, text = value.partition("=")
        if not sign or not key.rstrip(":"):
            self.fail(f"{value!r} is not K=V, or K:=JSON", param, ctx)
        if not key.endswith(":"):
            return key, text
        try:
            (found,) = ndjson.loads(f'{{"value":{text}}}').values()
        except ValueError as error:
            self.fail(f"{text!r} is not JSON: {error}", param, ctx)
        return key[:-1], found


class Bound(click.ParamType[Any]):
    """NAME=VALUE, a field of Limits; sizes may end in KiB, MiB or GiB."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Return the field and its value."""
        name, _, text = value.partition("=")
        kinds: dict[str, Any] = {field.name: type(field.default) for field in fields(Limits)}
        if name not in kinds:
            self.fail(f"there is no limit {name!r}; there are {', '.join(kinds)}", param, ctx)
        found = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)", text)
        if found is None or found[2].upper() not in _SIZES:
            self.fail(f"{text!r} is no number, and no size such as 4MiB", param, ctx)
        try:
            number: float = kinds[name](found[1]) * _SIZES[found[2].upper()]
            limits_of([(name, number)])
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return name, number


Decorator = Callable[[Callable[..., None]], Callable[..., None]]

address: Decorator = click.argument("address", type=Address(), metavar="HOST:PORT")
header_option: Decorator = click.option(
    *("-H", "--header", "header"),
    type=Pair(),
    multiple=True,
    help="A field of the header: K=V for text, K:=JSON for other values. Without any, the first "
    "packet is the header.",
)
limit_option: Decorator = click.option(
    *("--limit", "bounds"),
    type=Bound(),
    multiple=True,
    help="Another bound than the default, window_bytes=4MiB say. See the reference of Limits.",
)


def say(text: str) -> None:
    """Tell people *text*, on stderr."""
    click.echo(f"pyf-station: {text}", err=True)


def standard(name: str) -> Any:
    """Return the binary file of ``stdin`` or ``stdout``; raises OSError if it is closed."""
    if (file := getattr(sys, name)) is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), name)
    return file.buffer


def write_packet(packet: dict[str, Any]) -> None:
    """Write *packet* to stdout, at once: whoever reads it may be waiting."""
    out = standard("stdout")
    out.write(ndjson.dumps(packet).encode() + b"\n")
    out.flush()


def header_of(pairs: Iterable[tuple[str, Any]]) -> Packet | None:
    """Return the header that the options give; None if there are none."""
    return Packet(dict(pairs)) or None


def limits_of(bounds: Iterable[tuple[str, Any]]) -> Limits:
    """Return the limits that the options give."""
    return Limits(**dict(bounds))
