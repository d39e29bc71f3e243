"""The codec's innermost loops as they are used: compiled where they can be, or else in Python.

Both do the same, so nobody else needs to know which it is. ``PYF_STATION_PURE=1`` in the
environment chooses Python.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from pyf.transport import codec

__all__ = ["decode_maps", "encode_each", "encode_packet"]

PURE = "PYF_STATION_PURE"
"""The environment variable that chooses the codec in Python."""


def choose() -> ModuleType:
    """Return the module with the loops: the compiled one where it is there, and not ruled out."""
    if os.environ.get(PURE):
        return codec
    try:
        return import_module("pyf.transport._accelerator")
    except ImportError:  # It was installed without a compiler.
        return codec


if TYPE_CHECKING:
    from pyf.transport.codec import decode_maps, encode_each, encode_packet
else:
    _chosen = choose()
    decode_maps, encode_packet = _chosen.decode_maps, _chosen.encode_packet
    encode_each = _chosen.encode_each
