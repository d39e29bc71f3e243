"""Nothing leaks: not to the peer, not into the log, and nothing that runs what a peer sent."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import formatEvent, globalLogPublisher

import pyf.station
import pyf.transport
from pyf.station import AuthenticationFailed

CANARY = "c4n4ry-of-these-tests"
NASTY = "\r\nfaked line\x1b[31m\0\u202e\u2066\ud7ff" + CANARY + "x" * 1_000_000
FOLDERS = [Path(module.__file__ or "").resolve().parent for module in (pyf.station, pyf.transport)]
SOURCES = sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """
    The lines of the log, without the traceback that a handler's failure has.
    """
    found: list[str] = []

    def observe(event: Any) -> None:
        found.append(formatEvent(event))

    observer: Any = observe
    globalLogPublisher.addObserver(observer)
    yield found
    globalLogPublisher.removeObserver(observer)


def on_the_wire(client: Any) -> bytearray:
    """
    Everything that the server writes to *client* from now on.
    """
    written = bytearray()
    write = client.transport.write

    def listen(data: bytes) -> None:
        written.extend(data)
        write(data)

    client.transport.write = listen
    client.transport.writeSequence = lambda parts: listen(b"".join(parts))
    return written


def failing(flow: Any, client: Any) -> None:
    raise OSError(2, f"no such file: {CANARY}", f"/home/{CANARY}")


def test_the_client_learns_no_text_of_a_failure(peer, lines, logged_errors):
    """Message, path and traceback of a handler's exception stay on the server."""
    client = peer(failing)
    written = on_the_wire(client)
    result = client.call({"token": CANARY}, header={"authtkt": CANARY})
    assert result.error["error_class"] == "FileNotFoundError"
    assert result.error["message"] is result.error["traceback"] is None
    assert CANARY.encode() not in written
    assert FOLDERS[0].as_posix().encode() not in written
    logged_errors.claim(FileNotFoundError)
    assert not [line for line in lines if CANARY in line]


@pytest.mark.parametrize("exposed", [False, True])
def test_a_text_for_the_client_reaches_it_and_no_log(peer, lines, exposed):
    """What a handler tells its client is logged only where the server exposes errors."""

    def reporting(flow: Any, client: Any) -> None:
        client.error(f"no such account: {CANARY}")

    client = peer(reporting, expose_errors=exposed)
    result = client.call({"token": 1})
    client.returned()  # What is logged is so behind the answer.
    assert result.error["message"] == f"no such account: {CANARY}"
    assert any(result.error["error_id"] in line for line in lines)
    assert any(CANARY in line for line in lines) is exposed


def test_a_refused_token_is_nowhere(peer, lines):
    """Neither the header nor what authenticate says of it is written or logged."""

    def authenticate(header: Any, peer: Any) -> None:
        raise AuthenticationFailed(f"not known: {header}")

    client = peer(failing, authenticate=authenticate)
    written = on_the_wire(client)
    flow = client.open({"authtkt": CANARY})
    assert client.result(flow).error["code"] == "unauthenticated"
    client.machine.cancel(flow)
    client.pump()
    assert CANARY.encode() not in written
    assert not [line for line in lines if CANARY in line]


@pytest.mark.parametrize("where", ["goaway", "feature", "magic"])
def test_what_a_peer_says_of_itself_is_one_short_line(peer, lines, where):
    """CR, LF, ANSI, NUL, bidi and a megabyte: escaped, and cut."""
    client = peer(failing)
    machine = client.machine
    client.pump()
    if where == "goaway":
        machine._send_go_away(NASTY, NASTY)
        client.pump()
    elif where == "feature":
        from pyf.station.blame import escaped

        line = escaped(NASTY)
        assert line.isascii()
        assert line.isprintable()
        assert len(line) <= 400
        return
    else:
        client.protocol.dataReceived(b"\x0d\n\x1b[31m\0" + NASTY.encode())
    (line,) = [line for line in lines if line and "IPv4Address" in line]
    assert len(line.encode()) <= 1024
    assert line.isascii()
    assert line.isprintable()


FORBIDDEN = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "copyreg", "code"}
RUNS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_runs_what_was_sent(path):
    """No pickle, marshal or eval in any module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not FORBIDDEN & {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in FORBIDDEN
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in RUNS
