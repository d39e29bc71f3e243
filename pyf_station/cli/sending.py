"""Commands that send: call, replay, send-file, bench; and record, which keeps a flow in a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import click

from pyf.station import aio
from pyf.station.cli import access, common, meter, source
from pyf.station.cli.exchange import ship
from pyf.station.client import StationClient
from pyf.station.files import FileFlow
from pyf.transport import Packet, encode_packet, encode_packet_flow

timeout_option: common.Decorator = click.option(
    "--timeout", type=click.FloatRange(min=0), help="Seconds that the whole call may take."
)


@click.command()
@common.address
@access.connecting()
@source.input_argument
@common.header_option
@source.format_option
@timeout_option
@common.limit_option
@meter.progress_option
def call(
    server: access.Server,
    path: str,
    header: tuple[tuple[str, Any], ...],
    form: str,
    timeout: float | None,
    bounds: tuple[tuple[str, float], ...],
    progress: bool | None,
) -> None:
    """Send packets from FILE (stdin if not given), and write what comes back as lines of JSON.

    The last line is the success: {"type":"success","message":…}. A failure is a line on stderr, and
    exit code 1. Ctrl-C cancels the flow.

    \b
    Examples:
      pyf-station call localhost:8000 -H action=import < packets.ndjson | jq .message
      pyf-station call localhost:8000 rows.csv -H table=prices -H limit:=10
      tail -f events.ndjson | pyf-station call localhost:8000 -H action=follow
    """
    client = server.client(aio.StationClient, common.limits_of(bounds))
    with source.reading(path, form) as packets:
        ship(client, packets, common.header_of(header), timeout, progress)


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(exists=True, allow_dash=True))
@common.address
@access.connecting()
@timeout_option
@common.limit_option
@meter.progress_option
def replay(
    path: str,
    server: access.Server,
    timeout: float | None,
    bounds: tuple[tuple[str, float], ...],
    progress: bool | None,
) -> None:
    """Send the recorded flow in FILE, its header first; write what comes back as lines of JSON.

    A recording that was cut is an error, on both sides.

    \b
    Example:
      pyf-station replay night.flow localhost:8000
    """
    client = server.client(aio.StationClient, common.limits_of(bounds))
    with source.reading(path, "flow") as packets:
        ship(client, packets, None, timeout, progress)


@contextmanager
def _written_whole(path: Path) -> Generator[BinaryIO]:
    """Give a file that takes its place at *path* once it is whole, and not before.

    What is there and no regular file, such as a pipe or a device, is written to as it is.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _opened_for(path, part) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _opened_for(path: Path, part: Path) -> BinaryIO:
    try:
        return part.open("wb")
    except OSError as error:
        error.filename = path
        raise


def record_input(target: str, path: str, header: Iterable[tuple[str, Any]], form: str) -> None:
    """Write the packets of *path* to *target*, as a recorded flow."""
    first = common.header_of(header)
    with source.reading(path, form) as packets:
        flow = chain([first] if first else [], packets)
        if target == "-":
            out = sys.stdout.buffer
            out.writelines(encode_packet_flow(flow))
            out.flush()
            return
        with _written_whole(Path(target)) as file:
            file.writelines(encode_packet_flow(flow))


@click.command("send-file")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@common.address
@access.connecting()
@click.option("--name", help="What it is called there; its own name if not given.")
@timeout_option
@meter.progress_option
def send_file(
    path: str,
    server: access.Server,
    name: str | None,
    timeout: float | None,
    progress: bool | None,
) -> None:
    """Send FILE to a pyf-station receive-file, byte for byte.

    It is there under its name only once all of it has come and its checksum agrees.

    \b
    Example:
      pyf-station send-file backup.tar localhost:8000
    """
    flow = FileFlow(path)
    header = flow.header | ({"name": name} if name else {})
    ship(server.client(aio.StationClient), flow, Packet(header), timeout, progress)


@click.command()
@common.address
@access.connecting()
@click.option("-n", "--packets", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option(
    "-s",
    "--size",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Bytes of data in each packet.",
)
@common.header_option
@common.limit_option
def bench(
    server: access.Server,
    packets: int,
    size: int,
    header: tuple[tuple[str, Any], ...],
    bounds: tuple[tuple[str, float], ...],
) -> None:
    """Measure how fast the server takes a flow: one of many equal packets.

    The header has bench=true, unless options give another. Writes one line of JSON. The handler
    is measured, too.

    \b
    Example:
      pyf-station bench localhost:8000 -n 1000000 | jq .packets_per_second
    """
    packet = Packet(data=bytes(size))
    client = server.client(StationClient, common.limits_of(bounds))
    began = time.monotonic()
    client.send([packet] * packets, common.header_of(header) or Packet(bench=True))
    seconds = time.monotonic() - began
    total = packets * len(encode_packet(packet))
    common.write_packet(
        {
            "packets": packets,
            "bytes": total,
            "seconds": round(seconds, 6),
            "packets_per_second": round(packets / seconds),
            "bytes_per_second": round(total / seconds),
        }
    )
