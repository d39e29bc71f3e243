"""Every bound is checked where it is given."""

import dataclasses
from typing import Any

import pytest

from pyf.transport import Limits
from pyf.transport.limits import (
    INITIAL_BYTES,
    INITIAL_PACKETS,
    LONGEST_PING_INTERVAL,
    MAX_FRAME,
    MAX_WINDOW,
    limits_of,
)

# What is wrong on purpose need not be well typed.
limits: Any = Limits
FIELDS = dataclasses.fields(Limits)
COUNTS = {
    *("max_packet", "max_header", "window_packets", "window_bytes", "max_flows"),
    *("max_objects", "ping_misses", "retention"),
}
TIMES = {field.name for field in FIELDS} - COUNTS


@pytest.mark.parametrize("name", [field.name for field in FIELDS])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_bound_of_nothing_or_less_is_refused(name, value):
    with pytest.raises((ValueError, TypeError), match=f"Limits.{name} must be"):
        limits(**{name: value})


@pytest.mark.parametrize("name", [field.name for field in FIELDS])
@pytest.mark.parametrize("value", [True, "5", None])
def test_a_bound_that_is_no_number_is_refused(name, value):
    with pytest.raises(TypeError, match=f"Limits.{name} must be an? "):
        limits(**{name: value})


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_what_is_counted_is_an_int(name):
    with pytest.raises(TypeError, match=f"Limits.{name} must be an int"):
        limits(**{name: 1e6})


@pytest.mark.parametrize("name", sorted(TIMES))
def test_a_time_is_an_int_or_a_float_that_ends(name):
    assert getattr(limits(**{name: 3}), name) == 3
    assert getattr(limits(**{name: 0.5}), name) == 0.5
    for endless in (float("inf"), 10**400):
        with pytest.raises(ValueError, match=name):
            limits(**{name: endless})


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("max_packet", INITIAL_BYTES, MAX_FRAME),
        ("max_header", INITIAL_BYTES, MAX_FRAME),
        ("window_packets", INITIAL_PACKETS, MAX_WINDOW),
        ("window_bytes", INITIAL_BYTES, MAX_WINDOW),
        ("retention", INITIAL_BYTES, MAX_WINDOW),
    ],
)
def test_a_bound_lies_between_what_a_client_may_assume_and_what_fits_the_wire(name, least, most):
    for value in (least, most):
        assert getattr(limits(**{name: value}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"Limits.{name} must be {least} to {most}"):
            limits(**{name: value})


def test_nobody_may_keep_its_peer_from_asking_whether_it_lives():
    assert limits(min_ping_interval=LONGEST_PING_INTERVAL).min_ping_interval == 60.0
    with pytest.raises(ValueError, match=r"Limits.min_ping_interval must be 0 to 60.0, not 61"):
        limits(min_ping_interval=61)


def test_the_defaults_are_legal_and_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits().max_packet = 1


def test_only_limits_are_taken_for_limits():
    mine = Limits(max_flows=1)
    assert limits_of(mine) is mine
    assert limits_of(None) == Limits()
    for other in (0, {}, "tight", Limits):
        with pytest.raises(TypeError, match="limits= takes Limits, not"):
            limits_of(other)
