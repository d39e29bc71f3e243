"""The ordinary batch, which takes one step where that step is compiled.

Ordinary is what came whole and in its turn, under credit and within all limits, on a connection
and a flow in the midst of their lives; or one small packet that may leave at once. Whatever else
there is, and in Python everything, is left to the machine, which alone knows what happens then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyf.transport.compiled import compiled

if TYPE_CHECKING:
    from pyf.transport.events import PacketsReceived
    from pyf.transport.pieces import Pending
    from pyf.transport.resume import FlowMachine

_compiled = compiled("_fastpath")

receive_batch: Callable[[Any], PacketsReceived | None] = getattr(
    _compiled, "receive_batch", lambda _: None
)
"""Take a machine's next frame if it is an ordinary batch; return the event, None if it is not."""

send_packet: Callable[[Any, FlowMachine, Pending, int], int] = getattr(
    _compiled, "send_packet", lambda *_: 0
)
"""Have a machine send the one packet that is pending if it is ordinary, and not larger than that.

Return how many packets were sent.
"""
