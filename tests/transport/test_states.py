"""The tables of legal moves, tried whole."""

from enum import Enum
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyf.transport import LocalProtocolError
from pyf.transport.frames import FrameType
from pyf.transport.states import (
    CONNECTION_MOVES,
    FLOW_MOVES,
    SENDERS,
    ConnectionState,
    FlowState,
    Role,
    advance_connection,
    advance_flow,
)

MACHINES = [
    (ConnectionState, CONNECTION_MOVES, advance_connection),
    (FlowState, FLOW_MOVES, advance_flow),
]


@pytest.mark.parametrize(("states", "moves", "advance"), MACHINES)
def test_every_pair_is_a_transition_or_an_error(states, moves, advance):
    @given(st.sampled_from(states), st.sampled_from(FrameType))
    def check(state, frame):
        if (state, frame) in moves:
            assert advance(state, frame) is moves[state, frame]
        else:
            with pytest.raises(LocalProtocolError, match=f"{frame.name} is not allowed") as caught:
                advance(state, frame)
            assert caught.value.code == "unexpected_frame"
            assert state.value in str(caught.value)

    check()


@pytest.mark.parametrize(
    ("moves", "start"),
    [(CONNECTION_MOVES, ConnectionState.AWAITING_HELLO), (FLOW_MOVES, FlowState.IDLE)],
)
def test_every_state_can_be_reached(moves, start):
    reached = {start}
    while new := {after for (state, _), after in moves.items() if state in reached} - reached:
        reached |= new
    # A connection is closed by its own machine, not by a frame.
    assert reached | {ConnectionState.CLOSED} >= set(cast("type[Enum]", type(start)))


def test_nothing_is_legal_once_closed():
    assert not any(state is ConnectionState.CLOSED for state, _ in CONNECTION_MOVES)
    assert not any(state is FlowState.CLOSED for state, _ in FLOW_MOVES)


def test_every_frame_has_senders_and_a_place():
    assert set(SENDERS) == set(FrameType)
    assert all(SENDERS.values())
    assert {frame for _, frame in CONNECTION_MOVES} == set(FrameType)


def test_a_flow_closes_only_when_both_sides_have_said_their_last_word():
    """
    Every way to CLOSED holds one last word of each side, but where a flow is not let go on.
    """
    last_words = {
        Role.SERVER: {FrameType.RESULT},
        Role.CLIENT: {FrameType.END, FrameType.ABORT, FrameType.CANCEL},
    }
    pending = [(FlowState.IDLE, frozenset[FrameType]())]
    seen = set(pending)
    while pending:
        state, said = pending.pop()
        if state is FlowState.CLOSED and FrameType.REJECT not in said:
            assert all(said & words for words in last_words.values())
        for (before, frame), after in FLOW_MOVES.items():
            step = (after, said | {frame})
            if before is state and step not in seen:
                seen.add(step)
                pending.append(step)
    assert any(state is FlowState.CLOSED for state, _ in seen)


def test_each_role_has_the_other_as_peer():
    assert Role.CLIENT.peer is Role.SERVER
    assert Role.SERVER.peer is Role.CLIENT
