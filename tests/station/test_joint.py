"""What joins a transport to its flows."""

import pytest

from pyf.station import StationClient
from pyf.station.joint import Joint
from pyf.transport.limits import LARGE


def saying(flow, client):
    """
    A handler that says something small, and something large.
    """
    for _ in flow:
        client.message({"small": 1})
        client.message({"large": bytes(64 * LARGE)})


@pytest.fixture
def placed(monkeypatch):
    """
    The sizes of what was read in its place.
    """
    sizes = []
    take = Joint.buffer_updated

    def updated(joint, size):
        sizes.append(size)
        take(joint, size)

    monkeypatch.setattr(Joint, "buffer_updated", updated)
    return sizes


def test_most_of_a_large_message_is_read_in_its_place(connect, serve, placed):
    """
    The blocking client, which has a connection for each flow, does so without a joint.
    """
    client = connect("127.0.0.1", serve(saying), True)
    small, large, _ = client.stream([{"n": 1}])
    assert (small, len(large["large"])) == ({"small": 1}, 64 * LARGE)
    if connect is StationClient:
        assert not placed
    else:
        assert sum(placed) > 32 * LARGE


def test_what_is_encrypted_has_no_place(connect, listen, files, placed):
    """
    It has to be decrypted first.
    """
    client = connect("127.0.0.1", listen(saying, tls=files.server), True, tls=files.ca)
    _, large, _ = client.stream([{"n": 1}])
    assert len(large["large"]) == 64 * LARGE
    assert not placed
