"""Flows that go on over another connection than the one that they began on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pyf.transport import frames, payloads
from pyf.transport.errors import RemoteProtocolError
from pyf.transport.events import (
    Event,
    FlowRejected,
    FlowResumed,
    ResultAcknowledged,
    ResumeRequested,
    SessionOpened,
)
from pyf.transport.frames import Frame, FrameType
from pyf.transport.limits import Limits
from pyf.transport.machine import Machine
from pyf.transport.resume import FlowMachine, Ticket
from pyf.transport.states import FlowState, Role


class Continuation(Machine):
    """The part of a connection that carries flows on."""

    def __init__(
        self,
        role: Role,
        limits: Limits | None,
        clock: Callable[[], float] | None,
        *,
        strangers: bool = False,
    ) -> None:
        super().__init__(role, limits, clock, strangers=strangers)
        self._resuming: dict[int, FlowMachine] = {}

    def flow(self, flow_id: int) -> FlowMachine:
        """Return an open flow, for it to go on over another connection."""
        return self._flow(flow_id)

    def open_session(self, flow_id: int, ticket: Ticket, keeps: int) -> None:
        """Say that the flow can go on over another connection (server).

        To be called before anything else is sent on it. *keeps* is what its client keeps of it, in
        bytes, as it said in its OPEN.
        """
        flow = self._flow(flow_id)
        flow.keep(ticket.window)
        flow.receive.narrow(keeps)
        self._send(flow, FrameType.OPENED, payloads.encode_opened(ticket))

    def resume_flow(self, flow: FlowMachine, ticket: Ticket) -> int:
        """Ask for *flow*, which another connection carried, to go on here (client).

        Return its number here. Until the server has answered, it is not touched; raises
        FlowRefused as ``open_flow`` does.
        """
        assert flow.kept is not None
        self._check_opening(FrameType.RESUME)
        number = self._last_flow + 1
        request = payloads.encode_resume(ticket, flow.receive.received_packets, flow.kept.first)
        self._send(self._add_flow(number), FrameType.RESUME, request)
        self._resuming[number] = flow
        return number

    def resume(
        self,
        flow_id: int,
        flow: FlowMachine,
        request: ResumeRequested,
        ticket: Ticket,
        generation: int,
    ) -> None:
        """Have *flow* go on here, as its client has asked (server), with a new ticket.

        What the client lacks is sent again. ``flow.can_go_on`` must have said yes.
        """
        answer = payloads.encode_resumed(
            flow.receive.received_packets, request.received_back, ticket.token, generation
        )
        self._send(self._flow(flow_id), FrameType.RESUMED, answer)
        self._go_on(flow_id, flow, request.received_back)

    def reject(self, flow_id: int, code: str, message: str, *, final: bool) -> None:
        """Say that a flow cannot go on here (server); where not *final*, it may be asked again."""
        payload = payloads.encode_reject(code, message, final)
        self._send(self._flow(flow_id), FrameType.REJECT, payload)

    def fence(self, flow_id: int) -> None:
        """Ignore what else comes for a flow that goes on elsewhere."""
        self._fenced = max(self._fenced, flow_id)
        self._flows.pop(flow_id, None)

    def _fences(self, flow_id: int) -> bool:
        return flow_id <= self._fenced and flow_id not in self._flows

    def _go_on(self, flow_id: int, flow: FlowMachine, received: int) -> None:
        flow.id, flow.state = flow_id, FlowState.STREAMING
        self._flows[flow_id] = flow
        if flow.trusted:
            self._trusted.add(flow_id)
        if flow.trusted or self.role is Role.CLIENT:
            self._send_credit(flow)  # From a server, it says that the client is known.
        assert flow.kept is not None
        flow.kept.acknowledge(received)
        # All of it was sent under credit before.
        for first, count, buffers in flow.kept.batches():
            self._out += frames.encode_batch(self._batch_frame, flow.id, first, count, *buffers)
        words, flow.kept.last_words = flow.kept.last_words, []
        for word, payload in words:
            self._send(flow, word, payload)

    def _receive_opened(self, frame: Frame) -> Event | None:
        ticket = payloads.decode_opened(frame.payload)
        flow, wanted = self._advance(frame)
        if flow.kept is None:
            text = "a session is opened for a flow that did not ask for one"
            raise RemoteProtocolError(text, code="unexpected_frame")
        flow.receive.narrow(ticket.window)
        if wanted:
            # It changes nothing, and tells the server that the ticket has come.
            self._send_credit(flow)
        return SessionOpened(flow_id=flow.id, ticket=ticket) if wanted else None

    def _receive_resume(self, frame: Frame) -> Event | None:
        request = payloads.decode_resume(frame.payload)
        flow = self._opened(frame)
        if refusal := self._refusal():
            self.reject(flow.id, *refusal, final=False)
            return None
        return ResumeRequested(flow_id=flow.id, **request._asdict())

    def _receive_resumed(self, frame: Frame) -> Event | None:
        answer = payloads.decode_resumed(frame.payload)
        self._advance(frame)
        flow = self._resuming.pop(frame.flow)
        if answer.received_back != flow.receive.received_packets or not flow.can_go_on(
            answer.next_sequence, 0
        ):
            text = f"the server resumes at packet {answer.next_sequence}, which is not kept"
            raise RemoteProtocolError(text, code="sequence")
        self._go_on(frame.flow, flow, answer.next_sequence)
        return FlowResumed(flow_id=flow.id, token=answer.token, generation=answer.generation)

    def _receive_reject(self, frame: Frame) -> Event | None:
        facts = payloads.decode_reject(frame.payload)
        self._advance(frame)
        self._resuming.pop(frame.flow)
        return FlowRejected(flow_id=frame.flow, **facts._asdict())

    def _receive_ack(self, frame: Frame) -> Event | None:
        # Most often the flow has closed, by the very RESULT that this answers.
        if not self._gone(frame):
            self._advance(frame)
        return ResultAcknowledged(flow_id=frame.flow)

    _CONTINUATIONS: ClassVar[dict[FrameType, Callable[[Any, Frame], Event | None]]] = {
        FrameType.OPENED: _receive_opened,
        FrameType.RESUME: _receive_resume,
        FrameType.RESUMED: _receive_resumed,
        FrameType.REJECT: _receive_reject,
        FrameType.ACK: _receive_ack,
    }
