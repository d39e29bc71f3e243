"""Files as flows: chunks, then what they must add up to.

What arrives is written beside its place and renamed once it is whole: a transfer that was cut
leaves nothing that looks like the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import uuid4

from pyf.transport import Packet

__all__ = ["FileFlow", "Receiver"]

CHUNK: Final = 256 * 1024
"""Bytes of a file in one packet."""


class FileFlow:
    """The packets of the file at *path*; it knows how many there are. Lazy, for one use at a time.

    Iterating raises OSError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self.size: int = self.path.stat().st_size
        """Bytes of the file, as it is now."""
        self.header: Packet = Packet(name=self.path.name, size=self.size)
        """The header that a ``Receiver`` needs."""

    def __length_hint__(self) -> int:
        return -(-self.size // CHUNK) + 1

    def __iter__(self) -> Iterator[Packet]:
        digest = hashlib.sha256()
        size = 0
        with self.path.open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(data)
                size += len(data)
                yield Packet(data=data)
        yield Packet(size=size, sha256=digest.hexdigest())


class Receiver:
    """A handler that writes each flow of a ``FileFlow`` as a file into *folder*.

    It succeeds with the ``path``, ``size`` and ``sha256``. A file that is there already is
    kept, and the flow fails with FileExistsError, unless *overwrite* is set.
    """

    def __init__(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.folder: Path = Path(folder)
        self.overwrite: bool = overwrite

    def __call__(self, flow: Any, client: Any) -> dict[str, Any]:  # noqa: ARG002 - a handler
        """Handle one flow, in a thread of its own."""
        # Only the last part of what the client calls it: nothing lands outside the folder.
        name = Path(str(next(flow).get("name", ""))).name
        if name in ("", ".."):
            raise ValueError("the file needs a name")
        part = self.folder / f".{name[:100]}-{uuid4().hex}.part"
        try:
            with part.open("xb") as file:
                done = _write(flow, file)
            if self.overwrite:
                part.replace(self.folder / name)
            else:
                os.link(part, self.folder / name)
        finally:
            part.unlink(missing_ok=True)
        return {"path": str(self.folder / name), **done}


def _write(flow: Any, file: BinaryIO) -> dict[str, Any]:
    digest = hashlib.sha256()
    expected = None
    for packet in flow:
        if "data" in packet:
            digest.update(packet["data"])
            file.write(packet["data"])
        else:
            expected = packet
    actual = {"size": file.tell(), "sha256": digest.hexdigest()}
    if actual != expected:
        raise ValueError(f"expected {expected}, got {actual}")
    file.flush()
    os.fsync(file.fileno())
    return actual
