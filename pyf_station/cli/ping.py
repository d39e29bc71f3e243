"""ping: how long the server takes to answer, by PING and PONG of the protocol."""

from __future__ import annotations

import itertools
import socket
import statistics
import time
from collections.abc import Callable

import click

from pyf.station.cli import common
from pyf.station.wire import connect
from pyf.transport import Connection, ConnectionLost, Limits, Role, StationError
from pyf.transport.events import Event, HelloReceived, PongReceived


class Pinger:
    """A connection with nothing but PINGs on it. Raises ConnectionLost where it ends."""

    def __init__(self, address: tuple[str, int], timeout: float) -> None:
        limits = Limits(connect_timeout=timeout)
        self._address = address
        self._timeout = timeout
        self._socket: socket.socket = connect(*address, limits)
        self._machine = Connection(Role.CLIENT, limits)

    def greet(self) -> HelloReceived:
        """Return the server's HELLO."""
        found = self._await(lambda event: isinstance(event, HelloReceived))
        assert isinstance(found, HelloReceived)
        return found

    def ping(self, token: int) -> float:
        """Return the seconds until the PONG came; raises TimeoutError."""
        began = time.monotonic()
        self._machine.ping(token)
        self._await(lambda event: isinstance(event, PongReceived) and event.token == token)
        return time.monotonic() - began

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _await(self, wanted: Callable[[Event], bool]) -> Event:
        until = time.monotonic() + self._timeout
        self._socket.settimeout(self._timeout)
        self._socket.sendall(b"".join(self._machine.data_to_send()))
        while True:
            while event := self._machine.next_event():
                if wanted(event):
                    return event
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            data = self._socket.recv(65536)
            if not data:
                host, port = self._address
                raise ConnectionLost(f"{host}:{port} closed the connection", sent=0, consumed=0)
            self._machine.receive_data(data)


@click.command()
@common.address
@click.option(
    "-c", "--count", type=click.IntRange(min=1), help="How many; until Ctrl-C if not given."
)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds between two.",
)
@click.option(
    "-W",
    "--timeout",
    type=click.FloatRange(min=0.001),
    default=5.0,
    show_default=True,
    help="Seconds to wait for an answer.",
)
def ping(address: tuple[str, int], count: int | None, interval: float, timeout: float) -> None:
    """Measure round trips to a server. No handler is involved: it is the reactor that answers.

    Exit code 0 if an answer came, 1 if none did.

    \b
    Example:
      pyf-station ping localhost:8000 -c 3
    """
    where = "{}:{}".format(*address)
    pinger = Pinger(address, timeout)
    sent, times = 0, list[float]()
    try:
        click.echo(f"PING {where} ({pinger.greet().software})")
        for number in itertools.islice(itertools.count(), count):
            if number:
                time.sleep(interval)
            sent += 1
            try:
                times.append(pinger.ping(number))
            except TimeoutError:
                click.echo(f"no answer from {where}: seq={number}")
            else:
                click.echo(f"answer from {where}: seq={number} time={1000 * times[-1]:.3f} ms")
    except KeyboardInterrupt:
        click.echo()  # As with ping, it is the way to end it.
    except (StationError, OSError) as error:
        common.say(str(error) or f"{where} does not answer")
    finally:
        pinger.close()
    _summarize(where, sent, times)


def _summarize(where: str, sent: int, times: list[float]) -> None:
    click.echo(f"--- {where} ping statistics ---")
    lost = (1 - len(times) / sent) if sent else 1
    click.echo(f"{sent} sent, {len(times)} answered, {lost:.0%} lost")
    if not times:
        raise click.exceptions.Exit(1)
    facts = (min(times), statistics.fmean(times), max(times), statistics.pstdev(times))
    click.echo(
        "round trip min/avg/max/mdev = {:.3f}/{:.3f}/{:.3f}/{:.3f} ms".format(
            *(1000 * fact for fact in facts)
        )
    )
