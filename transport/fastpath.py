"""What is ordinary, which takes one step where that step is compiled.

Ordinary is a frame that came whole, and within its limits. What takes a step from there to its
event is, on a connection in the midst of its life, what the life of a flow is made of: the OPEN, a
batch that came in its turn and under credit, the END, and a short RESULT behind that. Ordinary is
also one small packet, or another small frame of a flow, that may leave at once. Whatever else there
is, and in Python everything, is left to the machine, which alone knows what happens then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pyf.transport.compiled import compiled

if TYPE_CHECKING:
    from pyf.transport.events import FlowEvent
    from pyf.transport.frames import Frame, FrameParser, FrameType
    from pyf.transport.pieces import Pending
    from pyf.transport.resume import FlowMachine

_compiled = compiled("pyf.transport._fastpath")

store: Callable[[Any, bytes], bool] = getattr(_compiled, "store", lambda *_: False)
"""Store what came for a machine if nothing came before it that is not parsed; return whether so."""

next_frame: Callable[[FrameParser], Frame | None] = getattr(_compiled, "next_frame", lambda _: None)
"""Take a parser's next frame if it is whole, as it came, and within limits; return None if not."""

receive: Callable[[Any], FlowEvent | Literal[False] | None] = getattr(
    _compiled, "receive", lambda _: None
)
"""Take a machine's next frame if it is an ordinary one of a flow; return the event, None if it is
not, False where nothing is left of what came.
"""

send_packet: Callable[[Any, int, Pending], bool] = getattr(
    _compiled, "send_packet", lambda *_: False
)
"""Have a machine send the one packet that is pending on a flow if it is ordinary; return whether
so.
"""

send: Callable[[Any, FlowMachine, FrameType, bytes], bool] = getattr(
    _compiled, "send", lambda *_: False
)
"""Have a machine send a small frame of a flow if that may be sent now, and be forgotten; return
whether so.
"""
