"""How long clients wait before each attempt."""

from itertools import islice

from pyf.station.backoff import pauses


def test_pauses_grow_from_one_second_to_sixteen():
    """
    None before the first attempt; then a random part of a limit that doubles.
    """
    assert list(islice(pauses(lambda: 1.0), 8)) == [0, 1, 2, 4, 8, 16, 16, 16]
    assert list(islice(pauses(lambda: 0.25), 4)) == [0, 0.25, 0.5, 1]
    assert all(0 <= pause <= 16 for pause in islice(pauses(), 100))
