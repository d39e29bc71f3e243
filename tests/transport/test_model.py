"""Two machines and an adversarial wire, against a model that knows only what users are promised.

STATION_SEQUENCES sets how many sequences of moves are drawn at random. The number that a failure
names gives the same sequence again: ``play(number)``.
"""

import os
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from random import Random

import pytest
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

SEQUENCES = int(os.environ.get("STATION_SEQUENCES", "1000"))
SHARE = 500  # sequences of one test, so that several cores can have some
EXAMPLES = 30  # sequences that hypothesis draws, and can make shorter
STEPS = 30
MAX_FLOWS = 3
SMALL = Limits(window_packets=1024, window_bytes=2**16)
WORDS = {FlowEnded: "end", FlowAborted: "abort", FlowAbandoned: "cancel"}
SPEAKING = {
    Role.CLIENT: (S.STREAMING, S.STOPPED),
    Role.SERVER: (S.STREAMING, S.STOPPED, S.ENDED),
}
LEAVING = (S.STREAMING, S.STOPPED, S.ANSWERED)
DONE = (S.IDLE, S.ANSWERED, S.ABANDONED, S.CLOSED)

# What is sent: few and large, so many that they take several frames, or larger than the window.
LOADS = ((1, 0), (40, 500), (700, 0), (1100, 20), (5, 6000), (12, 6000), (2, 33_000), (1, 70_000))
PIECES = (1, 10, 6500, 30_000, 10**6, 10**6, 10**6)


@lru_cache(maxsize=10_000)
def packet(n: int, size: int) -> bytes:
    return encode_packet({"n": n, "blob": bytes(size)})


class Model:
    """What both users of a flow did and heard."""

    def __init__(self) -> None:
        self.sent: dict[Role, list[int]] = {role: [] for role in Role}  # sizes of packets
        self.heard = dict.fromkeys(Role, 0)
        self.consumed = dict.fromkeys(Role, 0)
        self.said: list[str] = []
        self.told: list[str] = []
        self.stopped = self.answered = self.result = False

    def hear(self, role: Role, event: FlowEvent) -> None:
        """Check that what *role* hears is what the other side did, whole and in order."""
        assert not (role is Role.CLIENT and self.result), "heard behind the result"
        match event:
            case PacketsReceived(batch=batch):
                numbers = [each["n"] for each in batch.decode()]
                start = self.heard[role]
                assert numbers == list(range(start, start + len(numbers)))
                self.heard[role] += len(numbers)
                assert self.heard[role] <= len(self.sent[role.peer]), "heard what was not sent"
                assert not (role is Role.SERVER and self.stopped), "heard behind the stop"
                assert not (role is Role.SERVER and self.answered), "heard behind the answer"
            case FlowEnded() | FlowAborted() | FlowAbandoned():
                self.told.append(WORDS[type(event)])
                assert self.told == self.said[: len(self.told)]
                if not isinstance(event, FlowAbandoned):
                    assert event.count == len(self.sent[Role.CLIENT])
                    assert self.stopped or self.heard[role] == event.count, "a packet was lost"
            case FlowStopped():
                assert self.stopped
            case ResultReceived(value=value, consumed=consumed):
                assert self.answered
                assert value == len(self.sent[Role.SERVER]) == self.heard[Role.CLIENT]
                assert consumed == self.consumed[Role.SERVER]
                self.result = True
            case _:
                assert isinstance(event, FlowOpened)

    def waiting(self, role: Role) -> list[int]:
        """Return the sizes of what is on its way to *role*, or lies there unread."""
        return self.sent[role.peer][self.consumed[role] :]


class World:
    """Moves of both users, and of the wire between them. One that is not possible does nothing."""

    def __init__(self) -> None:
        self.machines = {role: Connection(role, SMALL) for role in Role}
        self.wires = {role: bytearray() for role in Role}  # what is on its way to it
        self.flows: dict[int, Model] = {}
        self.broken = False
        for role in (Role.SERVER, Role.CLIENT):
            self.deliver(role, 10**6)
        self.open()

    def state(self, role: Role, flow: int) -> S:
        known = flow in self.flows and not self.broken
        return self.machines[role].flow_state(flow) if known else S.IDLE

    def open(self) -> None:
        if len(self.flows) < MAX_FLOWS and not self.broken:
            self.flows[self.machines[Role.CLIENT].open_flow({"h": 1})] = Model()

    def send(self, role: Role, flow: int, load: tuple[int, int]) -> None:
        if self.state(role, flow) in SPEAKING[role]:
            count, size = load
            machine, sent = self.machines[role], self.flows[flow].sent[role]
            packets = [packet(n, size) for n in range(len(sent), len(sent) + count)]
            pending = deque(packets)
            done = machine.send_packets(flow, pending)
            assert list(pending) == packets[done:], "what did not leave is still there"
            sent += map(len, packets[:done])
            assert machine.sent(flow) == len(sent)

    def leave(self, flow: int, word: str) -> None:
        state = self.state(Role.CLIENT, flow)
        if state in LEAVING or (state is S.ENDED and word == "cancel"):
            self.flows[flow].said.append(word)
            arguments = ("Oops",) if word == "abort" else ()
            getattr(self.machines[Role.CLIENT], word)(flow, *arguments)

    def stop(self, flow: int) -> None:
        if self.state(Role.SERVER, flow) is S.STREAMING:
            self.flows[flow].stopped = True
            self.machines[Role.SERVER].stop(flow)

    def answer(self, flow: int) -> None:
        if self.state(Role.SERVER, flow) in (*SPEAKING[Role.SERVER], S.ABANDONED):
            model = self.flows[flow]
            model.answered = True
            consumed, value = model.consumed[Role.SERVER], len(model.sent[Role.SERVER])
            self.machines[Role.SERVER].finish(flow, consumed, "success", value=value)

    def consume(self, role: Role, flow: int, part: int = 1) -> None:
        """Take one *part*th of what came."""
        if self.state(role, flow) not in DONE:
            model = self.flows[flow]
            count = -((model.consumed[role] - model.heard[role]) // part)
            size = sum(model.waiting(role)[:count])
            model.consumed[role] += count
            self.machines[role].consume(flow, count, size)

    def ping(self, role: Role) -> None:
        if not self.broken:
            self.machines[role].ping(1)

    def deliver(self, role: Role, count: int) -> None:
        """Deliver some bytes; the rest waits."""
        if self.broken:
            return
        wire = self.wires[role]
        wire += b"".join(self.machines[role.peer].data_to_send())
        self.machines[role].receive_data(bytes(wire[:count]))
        del wire[:count]
        self.hear(role)

    def cut(self) -> None:
        """Break the connection: what is on its way is lost, and nobody hears of an end."""
        if not self.broken:
            self.broken = True
            for role, machine in self.machines.items():
                machine.receive_eof()
                self.hear(role)

    def hear(self, role: Role) -> None:
        while event := self.machines[role].next_event():
            if isinstance(event, FlowEvent) and not isinstance(event, CreditReceived):
                self.flows[event.flow_id].hear(role, event)

    def check(self) -> None:
        """What waits is bounded by the windows, but for one packet that half of one let pass."""
        for model in self.flows.values():
            for role in Role:
                waiting = model.waiting(role)
                assert len(waiting) <= SMALL.window_packets
                assert sum(waiting) <= SMALL.window_bytes + max(waiting, default=0)

    def settle(self) -> None:
        """Deliver all, take all: both sides agree on every flow, and nobody waits for credit."""
        for flow in self.flows:
            self.carry()
            for role in Role:
                self.consume(role, flow)
        self.carry()
        for flow, model in self.flows.items() if not self.broken else ():
            assert self.state(Role.CLIENT, flow) is self.state(Role.SERVER, flow)
            assert model.answered or model.told == model.said
            given_up = {"abort", "cancel"} & set(model.said)
            assert model.result or given_up or not model.answered, "a result was lost"
            for role in Role:
                stopped = role is Role.CLIENT and self.flows[flow].stopped
                if self.state(role, flow) in SPEAKING[role] and not stopped:
                    packets, size = self.machines[role].room(flow)
                    assert 2 * packets > SMALL.window_packets, "credit was lost"
                    assert 2 * size > SMALL.window_bytes, "credit was lost"
                    before = len(model.sent[role])
                    self.send(role, flow, (1, 2 * SMALL.window_bytes))
                    assert len(model.sent[role]) == before + 1, "a large packet cannot pass"

    def carry(self) -> None:
        for _ in range(3):  # what came may be answered by a word, and that by another
            for role in Role:
                self.deliver(role, 10**9)


def play(number: int) -> Iterator[str]:
    """Play the sequence of that *number*, and tell its moves as they come."""
    random = Random(number)
    roles = list(Role)
    world = World()

    def draw() -> tuple[str, tuple[object, ...]]:
        flow, role = random.randint(1, len(world.flows)), random.choice(roles)
        return random.choices(
            (
                ("open", ()),
                ("send", (role, flow, random.choice(LOADS))),
                ("leave", (flow, random.choice(("end", "abort", "cancel")))),
                ("stop", (flow,)),
                ("answer", (flow,)),
                ("consume", (role, flow, random.choice((1, 1, 2)))),
                ("ping", (role,)),
                ("deliver", (role, random.choice(PIECES))),
                ("cut", ()),
            ),
            (4, 24, 3, 2, 2, 20, 2, 40, 0.3),
        )[0]

    for _ in range(STEPS):
        name, arguments = draw()
        yield f"{name}{arguments}"
        getattr(world, name)(*arguments)
        world.check()
    yield "settle"
    world.settle()


@pytest.mark.parametrize("share", range(-(-SEQUENCES // SHARE)))
def test_sequences_drawn_at_random_keep_what_is_promised(share: int) -> None:
    """
    No legal move is a breach, nothing is lost, doubled or out of order, no end is made up.
    """
    for number in range(share * SHARE, min((share + 1) * SHARE, SEQUENCES)):
        moves: list[str] = []
        try:
            moves.extend(play(number))
        except Exception as error:
            pytest.fail(f"sequence {number}: {error!r}, at the last of {moves}")


FLOWS = st.integers(1, MAX_FLOWS)
ROLES = st.sampled_from(Role)


class Machines(RuleBasedStateMachine):
    """The same moves, drawn by hypothesis, which finds the shortest sequence that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule()
    def open(self) -> None:
        self.world.open()

    @rule(role=ROLES, flow=FLOWS, load=st.sampled_from(LOADS))
    def send(self, role: Role, flow: int, load: tuple[int, int]) -> None:
        self.world.send(role, flow, load)

    @rule(flow=FLOWS, word=st.sampled_from(["end", "abort", "cancel"]))
    def leave(self, flow: int, word: str) -> None:
        self.world.leave(flow, word)

    @rule(flow=FLOWS)
    def stop(self, flow: int) -> None:
        self.world.stop(flow)

    @rule(flow=FLOWS)
    def answer(self, flow: int) -> None:
        self.world.answer(flow)

    @rule(role=ROLES, flow=FLOWS, part=st.integers(1, 2))
    def consume(self, role: Role, flow: int, part: int) -> None:
        self.world.consume(role, flow, part)

    @rule(role=ROLES, count=st.sampled_from(PIECES))
    def deliver(self, role: Role, count: int) -> None:
        self.world.deliver(role, count)

    @rule(role=ROLES)
    def ping(self, role: Role) -> None:
        self.world.ping(role)

    @rule(luck=st.integers(0, 19))
    def cut(self, luck: int) -> None:
        if luck == 13:
            self.world.cut()

    @invariant()
    def what_waits_is_bounded(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.settle()


def test_sequences_that_hypothesis_draws_keep_what_is_promised() -> None:
    """
    As above; one that fails is made as short as it can be.
    """
    run_state_machine_as_test(
        Machines,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
