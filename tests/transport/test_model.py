"""Two machines and an adversarial wire, against a model that knows only what users are promised.

STATION_SEQUENCES sets how many sequences of moves are tried.
"""

import os
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pyf.transport import Connection, Limits, Role, encode_packet
from pyf.transport.events import (
    CreditReceived,
    FlowAbandoned,
    FlowAborted,
    FlowEnded,
    FlowEvent,
    FlowOpened,
    FlowStopped,
    PacketsReceived,
    ResultReceived,
)
from pyf.transport.states import FlowState as S

SEQUENCES = int(os.environ.get("STATION_SEQUENCES", "200"))
STEPS = 24
SMALL = Limits(window_packets=1024, window_bytes=2**16)
BLOB = bytes(6000)
WORDS = {FlowEnded: "end", FlowAborted: "abort", FlowAbandoned: "cancel"}


@dataclass
class Model:
    """What both users of a flow did and heard."""

    sent: dict[Role, int] = field(default_factory=lambda: dict.fromkeys(Role, 0))
    heard: dict[Role, int] = field(default_factory=lambda: dict.fromkeys(Role, 0))
    consumed: dict[Role, int] = field(default_factory=lambda: dict.fromkeys(Role, 0))
    said: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    stopped: bool = False
    answered: bool = False
    result: bool = False

    def hear(self, role: Role, event: FlowEvent) -> None:
        """Check that what *role* hears is what the other side did, whole and in order."""
        assert not (role is Role.CLIENT and self.result), "heard behind the result"
        match event:
            case PacketsReceived(batch=batch):
                numbers = [packet["n"] for packet in batch.decode()]
                start = self.heard[role]
                assert numbers == list(range(start, start + len(numbers)))
                assert start + len(numbers) <= self.sent[role.peer]
                assert not (role is Role.SERVER and self.stopped), "heard behind the stop"
                self.heard[role] += len(numbers)
            case FlowEnded() | FlowAborted() | FlowAbandoned():
                self.told.append(WORDS[type(event)])
                assert self.told == self.said[: len(self.told)]
                if not isinstance(event, FlowAbandoned) and not self.stopped:
                    assert self.heard[role] == event.count == self.sent[Role.CLIENT]
            case FlowStopped():
                assert self.stopped
            case ResultReceived(value=value, consumed=consumed):
                assert self.answered
                assert (value, consumed) == (self.sent[Role.SERVER], self.consumed[Role.SERVER])
                assert self.heard[Role.CLIENT] == value, "a message was lost"
                self.result = True
            case _:
                assert isinstance(event, FlowOpened)


FLOWS = st.integers(1, 2)
ROLES = st.sampled_from(Role)


class Machines(RuleBasedStateMachine):
    """Moves of both users, and of the wire between them, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.machines = {role: Connection(role, SMALL) for role in Role}
        self.wires = {role: bytearray() for role in Role}  # what is on its way to it
        self.flows: dict[int, Model] = {}
        self.broken = False
        for role in (Role.CLIENT, Role.SERVER):
            self.deliver(role.peer, 10**6)
        self.open()

    def state(self, role: Role, flow: int) -> S:
        known = flow in self.flows and not self.broken
        return self.machines[role].flow_state(flow) if known else S.IDLE

    @rule()
    def open(self) -> None:
        if len(self.flows) < 2 and not self.broken:
            self.flows[self.machines[Role.CLIENT].open_flow({"h": 1})] = Model()

    @rule(role=ROLES, flow=FLOWS, count=st.integers(1, 12))
    def send(self, role: Role, flow: int, count: int) -> None:
        talking = (S.STREAMING, S.STOPPED, S.ENDED) if role is Role.SERVER else (S.STREAMING,)
        if self.state(role, flow) in talking:
            start = self.flows[flow].sent[role]
            packets = ({"n": n, "blob": BLOB} for n in range(start, start + count))
            sent = self.machines[role].send_packets(flow, deque(map(encode_packet, packets)))
            self.flows[flow].sent[role] += sent

    @rule(flow=FLOWS, word=st.sampled_from(["end", "abort", "cancel"]))
    def leave(self, flow: int, word: str) -> None:
        state = self.state(Role.CLIENT, flow)
        speaking = (S.STREAMING, S.STOPPED, S.ANSWERED)
        if state in speaking or (state is S.ENDED and word == "cancel"):
            self.flows[flow].said.append(word)
            arguments = ("Oops",) if word == "abort" else ()
            getattr(self.machines[Role.CLIENT], word)(flow, *arguments)

    @rule(flow=FLOWS)
    def stop(self, flow: int) -> None:
        if self.state(Role.SERVER, flow) is S.STREAMING:
            self.flows[flow].stopped = True
            self.machines[Role.SERVER].stop(flow)

    @rule(flow=FLOWS)
    def answer(self, flow: int) -> None:
        if self.state(Role.SERVER, flow) in (S.STREAMING, S.STOPPED, S.ENDED, S.ABANDONED):
            model = self.flows[flow]
            model.answered = True
            consumed, value = model.consumed[Role.SERVER], model.sent[Role.SERVER]
            self.machines[Role.SERVER].finish(flow, consumed, "success", value=value)

    @rule(role=ROLES, flow=FLOWS)
    def consume(self, role: Role, flow: int) -> None:
        if self.state(role, flow) not in (S.IDLE, S.ANSWERED, S.CLOSED):
            model = self.flows[flow]
            count = model.heard[role] - model.consumed[role]
            model.consumed[role] += count
            self.machines[role].consume(flow, count, count * len(BLOB))

    @rule(role=ROLES)
    def ping(self, role: Role) -> None:
        if not self.broken:
            self.machines[role].ping(1)

    @rule(role=ROLES, count=st.sampled_from([1, 10, 6500, 30000, 10**6, 10**6]))
    def deliver(self, role: Role, count: int) -> None:
        """Deliver some bytes; the rest waits."""
        if self.broken:
            return
        wire = self.wires[role]
        wire += b"".join(self.machines[role.peer].data_to_send())
        self.machines[role].receive_data(bytes(wire[:count]))
        del wire[:count]
        self.hear(role)

    @rule(luck=st.integers(0, 19))
    def cut(self, luck: int) -> None:
        """Break the connection: what is on its way is lost, and nobody hears of an end."""
        if not self.broken and luck == 13:
            self.broken = True
            for role, machine in self.machines.items():
                machine.receive_eof()
                self.hear(role)

    def hear(self, role: Role) -> None:
        while event := self.machines[role].next_event():
            if isinstance(event, FlowEvent) and not isinstance(event, CreditReceived):
                self.flows[event.flow_id].hear(role, event)

    @invariant()
    def what_waits_is_bounded(self) -> None:
        for model in self.flows.values():
            for role in Role:
                waiting = model.sent[role.peer] - model.consumed[role]
                assert waiting * len(BLOB) <= SMALL.window_bytes + 2 * len(BLOB)

    def teardown(self) -> None:
        """Once all has been delivered, both sides agree on every flow."""
        while not self.broken and (
            any(self.wires.values()) or any(m._out for m in self.machines.values())
        ):
            for role in Role:
                self.deliver(role, 10**6)
        for flow in {} if self.broken else self.flows:
            assert self.state(Role.CLIENT, flow) is self.state(Role.SERVER, flow)


def test_two_machines_keep_what_is_promised_whatever_the_wire_does() -> Any:
    """
    No legal move is a breach, nothing is lost, doubled or out of order, no end is made up.
    """
    run_state_machine_as_test(
        Machines,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
