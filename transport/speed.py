"""The codec's innermost loops as they are used: compiled where they can be, or else in Python.

Both do the same, so nobody else needs to know which it is.
"""

from __future__ import annotations

from operator import call
from typing import TYPE_CHECKING, Any, TypeVar

from pyf.transport import codec, intake, pieces
from pyf.transport.compiled import compiled

__all__ = [
    "Done",
    "Intake",
    "Speaker",
    "decode",
    "decode_fields",
    "decode_maps",
    "decode_quickly",
    "encode_each",
    "encode_packet",
    "encode_pieces",
    "frozen",
    "packets_in",
    "unroll",
]

if TYPE_CHECKING:
    from pyf.transport.codec import (
        decode,
        decode_fields,
        decode_maps,
        decode_quickly,
        encode_each,
        encode_packet,
        unroll,
    )
    from pyf.transport.intake import Done, Intake, Speaker
    from pyf.transport.pieces import encode_pieces, packets_in

    T = TypeVar("T")

    def frozen(kind: type[T], **facts: Any) -> T:
        """Return an object of the frozen dataclass *kind*, of all its fields."""
        ...

else:
    _compiled = compiled("pyf.transport._accelerator")
    _chosen = _compiled or codec
    _intake = _compiled or intake
    Done, Intake, Speaker = _intake.Done, _intake.Intake, _intake.Speaker
    decode, decode_fields = _chosen.decode, _chosen.decode_fields
    decode_maps, decode_quickly = _chosen.decode_maps, _chosen.decode_quickly
    encode_each, encode_packet = _chosen.encode_each, _chosen.encode_packet
    _pieces = _compiled or pieces
    encode_pieces, packets_in = _pieces.encode_pieces, _pieces.packets_in
    frozen = _compiled.frozen if _compiled else call
    unroll = _chosen.unroll
