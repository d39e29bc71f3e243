"""Packets from a file or a pipe: lines of JSON, CSV, or a recorded flow."""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import click

from pyf.station import ndjson
from pyf.station.cli import common
from pyf.station.cli.common import Decorator, InputError
from pyf.transport import Packet, StationError, decode_packet_flow
from pyf.transport.frames import HEADER, MAGIC
from pyf.transport.limits import MIB

LINE: Final = 128 * MIB
"""Bytes of a line at the most, a packet of Limits.max_packet with every character escaped: memory
is bounded, whatever comes in."""

_MAGIC_AT: Final = HEADER.size
_SUFFIXES: Final = {".csv": "csv", ".flow": "flow"}


class Counted:
    """A binary file that counts what was read of it, for a line of progress."""

    def __init__(self, file: Any, name: str) -> None:
        # What is a file in memory knows no peek().
        self._file: Any = file if hasattr(file, "peek") else io.BufferedReader(file)
        self.name: str = name
        self.done: int = 0
        """Bytes read so far."""
        self.size: int | None = _size(file)
        """Bytes of a regular file; None for anything else."""
        self.typed: bool = file.isatty()
        """Whether it is typed by a person."""

    def read(self, size: int) -> bytes:
        """Return what is there, *size* bytes at the most."""
        data: bytes = self._file.read1(size)
        self.done += len(data)
        return data

    def __iter__(self) -> Iterator[bytes]:
        lines = iter(partial(self._file.readline, LINE + 1), b"")
        for number, line in enumerate(lines, 1):
            if len(line) > LINE:
                raise InputError(f"{self.name}:{number}: a line of more than {LINE // MIB} MiB")
            self.done += len(line)
            yield line

    def begins_as_flow(self) -> bool:
        """Whether the recording of a flow begins here. Waits for a first byte."""
        head: bytes = self._file.peek(_MAGIC_AT + len(MAGIC))
        return head[_MAGIC_AT : _MAGIC_AT + len(MAGIC)] == MAGIC


class Source(Iterator[Packet]):
    """The packets of a file, and how far it is."""

    def __init__(self, packets: Iterator[Packet], file: Counted) -> None:
        self._packets = packets
        self._file = file
        self.waiting: bool = False
        """Whether a packet is waited for right now."""
        self.ended: bool = False
        """Whether all of it has been read."""
        self.check_end: Callable[[], object] = bool
        """Called where the file has ended; may raise, if that is not the end of the flow."""

    def __next__(self) -> Packet:
        self.waiting = True
        try:
            return next(self._packets)
        except StopIteration:
            self.check_end()
            self.ended = True
            raise
        except InputError:
            raise
        except ValueError as error:
            raise InputError(str(error)) from error
        except StationError as error:
            raise InputError(f"{self._file.name}: {error}") from error
        finally:
            self.waiting = False

    @property
    def typed(self) -> bool:
        """Whether it is typed by a person."""
        return self._file.typed

    @property
    def fraction(self) -> float | None:
        """How much of the file has been read, 0 to 1; None if nobody knows."""
        return min(1.0, self._file.done / self._file.size) if self._file.size else None


def _size(file: IO[bytes]) -> int | None:
    try:
        status = os.fstat(file.fileno())
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _check_row(row: dict[Any, Any]) -> None:
    if None in row or None in row.values():
        raise ValueError("it has another number of fields than the first line names")


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"it names {name!r} twice")


def _read_csv(file: Counted) -> Iterator[Packet]:
    csv.field_size_limit(LINE)
    number = 0

    def lines() -> Iterator[str]:
        nonlocal number
        for number, line in enumerate(file, 1):  # noqa: B007 - for who is told
            yield line.decode("utf-8-sig")

    try:
        rows = csv.DictReader(lines(), strict=True)
        _check_names(rows.fieldnames or ())
        for row in rows:
            _check_row(row)
            yield Packet(row)
    except InputError:
        raise
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{file.name}:{number}: {error}") from None


FORMATS: Final[dict[str, Callable[[Counted], Iterator[Packet]]]] = {
    "ndjson": lambda file: ndjson.read(file, file.name),
    "csv": _read_csv,
    "flow": decode_packet_flow,
}


@contextmanager
def reading(path: str, form: str) -> Generator[Source]:
    """Open the file at *path*, ``-`` for stdin, and give its packets.

    The form is a key of FORMATS, or "auto".
    """
    opened = _open(path)
    file = Counted(opened, "stdin" if path == "-" else path)
    packets = Source(_Late(partial(_packets, file, path, form)), file)
    try:
        yield packets
    finally:
        if not packets.waiting:  # Closing would wait for a thread that reads, of a pipe for ever.
            opened.close()


def _open(path: str) -> IO[bytes]:
    if path != "-":
        return Path(path).open("rb")
    stdin = common.standard("stdin")
    try:
        # Not its buffer: as Python exits, a thread that reads must not hold the lock of that.
        return open(stdin.fileno(), "rb", closefd=False)
    except io.UnsupportedOperation:
        return io.BytesIO(stdin.read())


class _Late(Iterator[Packet]):
    """An iterator that is made when it is first asked: making this one may wait for input."""

    def __init__(self, make: Callable[[], Iterator[Packet]]) -> None:
        self._make = make
        self._made: Iterator[Packet] | None = None

    def __next__(self) -> Packet:
        if self._made is None:
            self._made = self._make()
        return next(self._made)


def _packets(file: Counted, path: str, form: str) -> Iterator[Packet]:
    if form == "auto":
        form = _SUFFIXES.get(os.path.splitext(path)[1].lower(), "")  # noqa: PTH122 - "-" is no path
        form = form or ("flow" if file.begins_as_flow() else "ndjson")
    return iter(FORMATS[form](file))


format_option: Decorator = click.option(
    *("-f", "--format", "form"),
    type=click.Choice(["auto", *FORMATS]),
    default="auto",
    show_default=True,
    help="What comes in. auto: by the ending of the name (.csv, .flow), or the first bytes.",
)
input_argument: Decorator = click.argument(
    "path", default="-", metavar="[FILE]", type=click.Path(exists=True, allow_dash=True)
)
