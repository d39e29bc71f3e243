"""A shared secret comes from the environment or a file, and goes into the header."""

import re

import pytest

from pyf.station import StationClient, shared_secrets
from pyf.station.credentials import presenting, read_secret

SECRET = "a secret that nobody guesses"


def test_a_secret_is_read_from_the_environment_or_a_file(monkeypatch, tmp_path):
    """
    The end of the line in a file is no part of it, and other space is.
    """
    path = tmp_path / "secret"
    path.write_bytes(f" {SECRET} \r\n".encode())
    monkeypatch.setenv("STATION_SECRET", SECRET)
    assert read_secret("env:STATION_SECRET") == SECRET
    assert read_secret(f"file:{path}") == f" {SECRET} "


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("env:STATION_NONE", "there is no secret in env:STATION_NONE"),
        ("file:/dev/null", "there is no secret in file:/dev/null"),
        (SECRET, "a secret is given as env:NAME or file:PATH"),
    ],
)
def test_what_is_no_source_of_a_secret_is_refused(source, reason):
    """
    The error doesn't repeat what was given in its place: it may be the secret itself.
    """
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        read_secret(source)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("header", [{"h": 1}, None])
def test_a_client_presents_it_with_each_header(serve, header):
    """
    Whether the header is given, or is the flow's first packet.
    """
    port = serve(
        lambda flow, client: [client.identity, *map(dict, flow)],
        authenticate=shared_secrets(SECRET),
    )
    client = StationClient("127.0.0.1", port, interceptors=[presenting(SECRET)])
    flow = [{"n": 1}] if header else [{"h": 1}, {"n": 1}]
    assert client.send(flow, header) == ["authtkt 1", {"h": 1, "authtkt": SECRET}, {"n": 1}]
