"""How many packets a flow will probably have, where its source knows."""

from __future__ import annotations

from operator import length_hint

from pyf.transport.payloads import MAX_LENGTH


def known_length(flow: object) -> int | None:
    """Return what *flow* says by ``__len__`` or ``__length_hint__``; None if it can't, or fails.

    It is asked as it is given, before ``iter()``: many a sequence's iterator doesn't know.
    """
    try:
        length = length_hint(flow, -1)
    except Exception:  # noqa: BLE001 - a flow may be sent whatever its length fails with
        return None
    return length if 0 <= length <= MAX_LENGTH else None
