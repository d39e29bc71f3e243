from collections.abc import Callable, Iterator
from typing import Any

from pyf.transport.census import Bounds
from pyf.transport.intake import Done as Done
from pyf.transport.intake import Intake as Intake

def encode_packet(packet: dict[str, Any]) -> bytes: ...
def encode_each(
    gate: list[Callable[[dict[str, Any]], bytes]], source: Iterator[dict[str, Any]]
) -> Iterator[bytes]: ...
def decode_maps(
    data: bytes | memoryview, count: int, bounds: Bounds = ...
) -> list[dict[str, Any]]: ...
