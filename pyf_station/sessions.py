"""The sessions of a server: flows that survive their connection, and those that wait for one.

A flow without a connection goes on talking to the machine of the one that it lost, until credit
ends: what it says is kept, and goes out again once the client has come back. All of it in the
reactor's thread.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from pyf.station.session import Session
from pyf.station.store import Progress, Store
from pyf.station.watch import Alarm
from pyf.transport import BadFlowEnding, Connection, FlowCancelled, StationError
from pyf.transport.events import FlowOpened, ResumeRequested
from pyf.transport.limits import INITIAL_BYTES, MAX_WINDOW, MIB
from pyf.transport.resume import FlowMachine, Ticket, Tokens, Verdict

TOKEN_BYTES: Final = 32
"""Bytes of a token: nobody guesses 256 bits."""

UNSEEN: Final = 100
"""Sessions that may wait for clients which never showed that they have a token: most of them never
got it, and open the flow anew. They have no handler; the one that waits longest makes room."""

_log: Final = Logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumePolicy:
    """That flows may survive their connection, and what they may cost.

    Times are in seconds, sizes in bytes. Raises ValueError for a bound that cannot work.
    """

    ttl: float = 120.0
    """How long a flow waits for its client to come back: longer than a laptop takes to change the
    network, and its attempts take to find the server again."""

    retention: int = 1 * MIB
    """Messages of one flow that are kept until the client has taken them. The window in use is no
    larger."""

    max_detached: int = 1000
    """Flows that may wait for their client at once. They count as clients, too
    (``FlowServer.max_clients``)."""

    max_detached_bytes: int = 256 * MIB
    """What these may hold in all: packets that are not read yet, and what is kept."""

    store: Store | None = None
    """Where handlers note how far they are (``client.checkpoint``), for flows with a name."""

    def __post_init__(self) -> None:
        if not 0 < self.ttl < inf:
            raise ValueError(f"ResumePolicy.ttl must be more than 0 and finite, not {self.ttl!r}")
        if not INITIAL_BYTES <= self.retention <= MAX_WINDOW:
            text = f"must be {INITIAL_BYTES} to {MAX_WINDOW}, not {self.retention!r}"
            raise ValueError(f"ResumePolicy.retention {text}")
        for name in ("max_detached", "max_detached_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"ResumePolicy.{name} must not be negative")


@dataclass(slots=True, eq=False)
class Place:
    """One session, and the connection that carries it, or did last."""

    carrier: Any
    """The protocol."""
    session: Session
    flow: FlowMachine
    ticket: Ticket
    tokens: Tokens
    identity: object
    """Who the connection that it began on was known to be: the handler's client may be somebody
    else, by a header that is not said again."""
    generation: int = 1
    started: bool = False
    """Whether the handler has been started."""
    waiting: Alarm | None = None
    """When its time is over, while it has no connection."""


class Sessions:
    """All sessions of *server*, whose flows may survive their connection as *policy* says."""

    def __init__(self, server: Any, policy: ResumePolicy) -> None:
        self.policy: ResumePolicy = policy
        self.boot_id: bytes = secrets.token_bytes(16)
        """Which run of the server this is."""
        self._server = server
        self._places: dict[bytes, Place] = {}
        # In the order in which they began to wait.
        self._detached: dict[Place, None] = {}

    @property
    def detached(self) -> int:
        """How many wait for their client.

        Those that are UNSEEN don't count.
        """
        return sum(place.started for place in self._detached)

    # What clients ask for

    def open(self, carrier: Any, machine: Connection, event: FlowOpened, session: Session) -> None:
        """Give the flow a session, once the store has told how far it is."""
        store, name = self.policy.store, event.name
        if name is None:
            self._open(carrier, machine, event, session)
            return
        assert store is not None

        def begun(found: tuple[int, int]) -> None:
            session.start, epoch = found
            session.progress = Progress(store, name, epoch)
            if carrier.carries(session):
                self._open(carrier, machine, event, session)
                carrier.flush()

        def failed(failure: Failure) -> None:
            assert failure.value is not None
            session.report_failure(failure.value)

        carrier.call_in_thread(store.begin, name).addCallbacks(begun, failed)

    def _open(self, carrier: Any, machine: Connection, event: FlowOpened, session: Session) -> None:
        assert event.resume is not None
        session.window_bytes = min(session.window_bytes, event.resume)
        session_id, token = secrets.token_bytes(16), secrets.token_bytes(TOKEN_BYTES)
        policy = self.policy
        ticket = Ticket(
            *(self.boot_id, session_id, token, float(policy.ttl), policy.retention),
            start=session.start,
        )
        machine.open_session(event.flow_id, ticket, event.resume)
        tokens = Tokens(self.boot_id + session_id, token)
        flow = machine.flow(event.flow_id)
        place = Place(carrier, session, flow, ticket, tokens, carrier.identity)
        self._places[session_id] = place
        carrier.admit(event.flow_id, place)

    def resume(self, carrier: Any, machine: Connection, event: ResumeRequested) -> None:
        """Have a session go on over the connection of *carrier*, or say why not."""
        place = self._places.get(event.session_id)
        refusal = self._unknown(event) if place is None else self._refusal(place, carrier, event)
        if refusal is not None:
            code, text, final = refusal
            machine.reject(event.flow_id, code, text, final=final)
            return
        assert place is not None
        self._attach(place)
        place.carrier.release(place.flow.id)
        place.generation += 1
        place.ticket = place.ticket._replace(token=secrets.token_bytes(TOKEN_BYTES))
        place.tokens.add(place.ticket.token)
        place.carrier = place.session.carrier = carrier
        place.session.flow_id = event.flow_id
        carrier.admit(event.flow_id, place)
        machine.resume(event.flow_id, place.flow, event, place.ticket, place.generation)
        place.session.flush()

    def _unknown(self, event: ResumeRequested) -> tuple[str, str, bool]:
        if event.boot_id != self.boot_id:
            return "other_boot", "the server was restarted since", True
        return "unknown_session", "there is no such session any more", True

    def _refusal(
        self, place: Place, carrier: Any, event: ResumeRequested
    ) -> tuple[str, str, bool] | None:
        verdict = place.tokens.check(event.token)
        if verdict is Verdict.RETIRED:
            return "superseded", "the client has come back since", False
        if verdict is Verdict.WRONG or carrier.identity != place.identity:
            self.end(place, "somebody came back who could not show that the flow is theirs")
            return "unknown_session", "there is no such session any more", True
        if not place.flow.can_go_on(event.received_back, event.first_available):
            self.end(place, "its client came back without what is missing")
            return "gap", "what one side lacks, the other one has forgotten", True
        return None

    # Without a connection

    def detach(self, place: Place) -> bool:
        """Let a session wait for its client, whose connection is lost; return whether it may."""
        policy = self.policy
        if self._server.stopping or place.session.ending is not None:
            return False
        started = [each for each in self._detached if each.started]
        size = place.flow.weight + sum(each.flow.weight for each in started)
        if not place.started and policy.max_detached:
            self._make_room()
        elif len(started) >= policy.max_detached or size > policy.max_detached_bytes:
            _log.warn(
                "a flow of {peer} ends with its connection: {n} flows of {size} bytes wait"
                " (ResumePolicy.max_detached, max_detached_bytes)",
                peer=place.carrier.peer,
                n=self.detached,
                size=size,
            )
            return False
        server = self._server
        expire = partial(self.end, place, f"its client did not come back within {policy.ttl:g} s")
        place.waiting = Alarm(server.reactor, server.clock, policy.ttl, expire)
        self._detached[place] = None
        return True

    def _make_room(self) -> None:
        """Forget what has waited longest for a client that may never have had its token."""
        waiting = [each for each in self._detached if not each.started]
        if len(waiting) >= UNSEEN:
            self.end(waiting[0], "its client never came")

    def weigh(self, place: Place) -> None:
        """Note that a session has its result: one that waits may be too large with it."""
        if place in self._detached:
            self._attach(place)
            if not self.detach(place):
                self.forget(place)

    def end(self, place: Place, why: str) -> None:
        """End a session: its handler, if it still reads, gets BadFlowEnding."""
        received = place.session.received
        text = f"the flow has ended: {why}; {received} packets had come"
        self._end(place, BadFlowEnding(text, received=received))

    def end_detached(self, why: str) -> None:
        """End the sessions whose clients are not there: they can no longer come back."""
        for place in list(self._detached):
            self._end(place, FlowCancelled(why))

    def forget(self, place: Place) -> None:
        """Keep a session no longer: it can't go on over another connection."""
        self._attach(place)
        self._places.pop(place.ticket.session_id, None)
        place.carrier.dismiss(place.flow.id)

    def _end(self, place: Place, error: StationError) -> None:
        self.forget(place)
        place.carrier.lose(place.session, error)

    def _attach(self, place: Place) -> None:
        self._detached.pop(place, None)
        waiting, place.waiting = place.waiting, None
        if waiting is not None:
            waiting.cancel()


def cut(why: str, session: Session) -> BadFlowEnding:
    """Return the error of a flow whose connection has ended."""
    what = "result" if session.whole else "flow"
    text = f"{why}, before the {what}; {session.received} packets had come"
    return BadFlowEnding(text, received=session.received)
