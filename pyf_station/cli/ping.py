"""ping: how long the server takes to answer, by PING and PONG of the protocol."""

from __future__ import annotations

import itertools
import selectors
import statistics
import time
from collections.abc import Callable

import click

from pyf.station.cli import access, common
from pyf.station.cli.access import Server
from pyf.station.outcome import refusal
from pyf.station.wire import Wire
from pyf.transport import Connection, ConnectionLost, Limits, Role, StationError
from pyf.transport.budget import BUDGETS
from pyf.transport.events import Event, GoAwayReceived, HelloReceived, PongReceived

LEAST_INTERVAL = 1 / BUDGETS["PING"].rate
"""Seconds between two PINGs that a server takes for as long as they come."""


class Pinger:
    """A connection with nothing but PINGs on it.

    Where it ends, raises ConnectionLost, or what the server has said that it was for.
    """

    def __init__(self, server: Server, timeout: float) -> None:
        limits = Limits(connect_timeout=timeout, handshake_timeout=timeout)
        self._timeout = timeout
        self._wire: Wire = server.dial(limits)
        self._machine = Connection(Role.CLIENT, limits)
        self._selector = selectors.DefaultSelector()
        self._refusal: StationError | None = None

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
        self._selector.close()
        self._wire.close()

    def _await(self, wanted: Callable[[Event], bool]) -> Event:
        until = time.monotonic() + self._timeout
        self._wire.write(self._machine.data_to_send)
        while True:
            while event := self._machine.next_event():
                if wanted(event):
                    return event
                if isinstance(event, GoAwayReceived):
                    self._refusal = refusal(event)
            if data := self._wire.read():
                self._machine.receive_data(data)
            elif reason := self._wire.ending or self._wire.failure:
                raise self._refusal or ConnectionLost(reason, sent=0, consumed=0)
            else:
                self._wire.watch(self._selector)
                if not self._selector.select(max(0.0, until - time.monotonic())):
                    raise TimeoutError
                self._wire.write(list)


@click.command()
@common.address
@access.connecting(secret=False)
@click.option(
    "-c", "--count", type=click.IntRange(min=1), help="How many; until Ctrl-C if not given."
)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(min=LEAST_INTERVAL),
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
def ping(server: Server, count: int | None, interval: float, timeout: float) -> None:
    """Measure round trips to a server. No handler is involved: it is the reactor that answers.

    Exit code 0 if an answer came, 1 if none did.

    \b
    Example:
      pyf-station ping localhost:8000 -c 3
    """
    where = str(server)
    pinger = Pinger(server, timeout)
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
    except BrokenPipeError:
        raise  # Whoever read our output has gone: a failure of the wire has another name.
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
