"""Every example runs here as its docstring says, in processes of its own."""

import ast
import hashlib
import json
import os
import pty
import random
import re
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from pyf.station import ServerError, StationClient
from pyf.transport import Packet

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SECONDS = 30.0
"""What any wait here may take, on the slowest machine."""

# As in the tests themselves, a warning is an error, but for tgscheduler's own.
PYTHON = [sys.executable, "-W", "error", "-W", "ignore:setDaemon:DeprecationWarning"]

# The same code without what the examples add to it: a port to choose, and what they say.
FUNCTION_HANDLER = """
from twisted.internet import reactor
from pyf.station import FlowServer
from pyf.transport import Packet

def sample_handler(flow, client=None):
    header = next(flow)
    print(header)
    for i, item in enumerate(flow):
        if not i % 50:
            client.message(Packet({'type': 'info', 'message': f'hello! ({i})'}))
    client.success("Done")
"""
CLASS_HANDLER = """
from twisted.internet import reactor
from pyf.station import FlowServer

class SampleHandler:                                      # or a class
    def __init__(self, flow, client):
        self.flow = flow
        self.client = client

    def handle_data(self):
        header = next(self.flow)
        for i, item in enumerate(self.flow):
            if not i % 50:
                print(i, item)
        self.client.success("Done")
"""
LISTEN = """
reactor.listenTCP(8000, FlowServer({handler}))
reactor.run()
"""
EMBED = """
from tgscheduler import scheduler                         # in a process that already has threads
reactor.listenTCP(8000, FlowServer(sample_handler))
scheduler.add_single_task(reactor.run, kw=dict(installSignalHandlers=0), initialdelay=0)
scheduler.start_scheduler()
"""
OTHER_WORK = """
import threading
threading.Event().wait()
"""
CLIENT = """
from pyf.station import StationClient
from pyf.transport import Packet

client = StationClient('127.0.0.1', 8000, True)          # third: waits_for_success
client.add_listener('message_received', print)
flow = (Packet(dict(Field1=i + 1, Field2=('titi', 'tata')[i % 2], num=i + 1, Field3=(i + 1) * 10))
        for i in range(10000))
for value in client.call(flow, header=dict(authtkt='my false auth token :)', action='my_action')):
    if isinstance(value, Packet):
        print(value)
"""
SAY_PORT = """
from twisted.internet import reactor
reactor.callWhenRunning(lambda: print("Listening on port", *(
    reader.getHost().port for reader in reactor.getReaders() if hasattr(reader, "getHost")
), flush=True))
"""


class Process:
    """
    A process whose output can be waited for, line by line.
    """

    def __init__(self, *command: str, cwd: Path) -> None:
        # Not measured: coverage's tracer has a lock, which a Ctrl-C may leave locked.
        inherited = {key: os.environ[key] for key in os.environ if not key.startswith("COVERAGE_")}
        self.popen = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            env={**inherited, "PYTHONIOENCODING": "utf-8"},
        )
        self.output = ""
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._changed:
                self.output += line
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern: str) -> str:
        """
        Return the first group of *pattern* in the output, once it is there.
        """
        with self._changed:
            self._changed.wait_for(lambda: re.search(pattern, self.output) or self._ended, SECONDS)
            match = re.search(pattern, self.output)
        assert match, f"no {pattern!r} in the output:\n{self.output}"
        return match[1]

    def wait_for_end_of_output(self) -> None:
        """
        Wait until this process and all that share its output have ended.
        """
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended, SECONDS), self.output

    def wait(self) -> int:
        code = self.popen.wait(SECONDS)
        self.wait_for_end_of_output()
        return code

    def interrupt(self) -> int:
        """
        Do as Ctrl-C does to a single process, and return its exit code.
        """
        self.popen.send_signal(signal.SIGINT)
        return self.wait()

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self._reader.join(SECONDS)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """
    Start `python ...`, in an empty directory; it is killed if the test leaves it running.
    """
    processes: list[Process] = []

    def start(*arguments: object, cwd: Path = tmp_path) -> Process:
        process = Process(*PYTHON, *map(str, arguments), cwd=cwd)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.close()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_each_example_says_how_to_run_it_and_is_run_here(path: Path) -> None:
    """
    An example starts with what it shows and the command that runs it, and a test names it.
    """
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert f"python examples/{path.name}" in docstring
    assert f'"{path.name}"' in Path(__file__).read_text(encoding="utf-8")


# The servers and the client of the first pages


@pytest.mark.parametrize(
    ("server", "says", "answers"),
    [
        ("function_handler.py", "Packet({'authtkt': 'my false auth token :)'", 200),
        ("class_handler.py", "9950 Packet({'Field1': 9951, 'Field2': 'titi'", 0),
        ("embedded_server.py", "Packet({'authtkt': 'my false auth token :)'", 200),
    ],
    ids=["function", "class", "embedded"],
)
def test_the_client_gets_its_answers(
    start: Callable[..., Process], server: str, says: str, answers: int
) -> None:
    """
    Each of the servers takes all of the client's flow and answers it, twice; Ctrl-C ends it well.
    """
    serving = start(EXAMPLES / server, 0)
    port = serving.wait_for(r"port (\d+)")
    for _ in range(2):
        client = start(EXAMPLES / "client.py", port)
        assert client.wait() == 0, client.output
        lines = client.output.splitlines()
        assert len(lines) == 2 * answers + 1  # by the listener and by the loop
        assert lines[-1] == "Packet({'type': 'success', 'message': 'Done'})"
    assert serving.interrupt() == 0
    assert serving.output.count(says) == 2
    assert "Traceback" not in serving.output


@pytest.mark.parametrize(
    "server",
    [
        FUNCTION_HANDLER + LISTEN.format(handler="sample_handler"),
        CLASS_HANDLER + LISTEN.format(handler="SampleHandler"),
        FUNCTION_HANDLER + EMBED + OTHER_WORK,
    ],
    ids=["function", "class", "tgscheduler"],
)
def test_the_code_that_people_have_runs_as_it_is(
    start: Callable[..., Process], server: str
) -> None:
    """
    The shortest servers and client work as printed, but for the port, which is a free one.
    """
    serving = start("-c", SAY_PORT + server.replace("8000", "0"))
    port = serving.wait_for(r"Listening on port (\d+)")
    client = start("-c", CLIENT.replace("8000", port))
    assert client.wait() == 0, client.output
    assert client.output.endswith("Packet({'type': 'success', 'message': 'Done'})\n")
    serving.popen.terminate()
    serving.wait()
    assert "Traceback" not in serving.output


# The demo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """
    An empty folder with a space in its name.
    """
    folder = tmp_path / "a folder"
    folder.mkdir()
    return folder


def rows(database: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as db:
        return db.execute("SELECT * FROM characters ORDER BY code").fetchall()


def named_characters() -> Iterator[tuple[Any, ...]]:
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if name := unicodedata.name(char, ""):
            number = unicodedata.numeric(char, None)
            text = None if number is None else str(Decimal(str(number)))
            category = unicodedata.category(char)
            yield code, name, category, text, unicodedata.decomposition(char)


def test_demo_stores_every_character(start: Callable[..., Process], folder: Path) -> None:
    """
    All named characters reach the database; what is said on the way and in the end agrees.
    """
    demo = start(EXAMPLES / "unicode_demo.py", cwd=folder)
    assert demo.wait() == 0, demo.output
    expected = list(named_characters())
    assert rows(folder / "unicode.sqlite") == expected
    assert [path.name for path in folder.iterdir()] == ["unicode.sqlite"]
    lines = demo.output.splitlines()
    messages = [f"  server: {count:,} rows written" for count in range(10000, len(expected), 10000)]
    assert [line for line in lines if "rows written" in line] == messages
    assert f"{len(expected):,} rows are in unicode.sqlite, by category:" in lines
    assert re.search(r"That was [\d,]+ packets per second", demo.output)
    assert lines[-1].startswith("Try next: ")
    assert "%" not in demo.output  # no bar where it would only fill a file

    found = start(EXAMPLES / "unicode_demo.py", "--find", "black snowman", cwd=folder)
    assert found.wait() == 0
    assert found.output == "U+26C7  \u26c7  So  BLACK SNOWMAN\n"


def test_demo_draws_a_bar_in_a_terminal(folder: Path) -> None:
    """
    Who watches the demo in a terminal sees a bar that reaches 100 %, also where a database is.
    """
    (folder / "unicode.sqlite").write_text("not a database, and about to be replaced")
    terminal, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 80))
    try:
        with subprocess.Popen(
            [*PYTHON, EXAMPLES / "unicode_demo.py"],
            cwd=folder,
            stdin=side,
            stdout=side,
            stderr=side,
        ) as demo:
            os.close(side)
            output = b""
            with suppress(OSError):  # what Linux says when the last writer has gone
                while piece := os.read(terminal, 65536):
                    output += piece
            assert demo.wait(SECONDS) == 0, output
    finally:
        os.close(terminal)
    assert "100%|██" in output.decode()
    assert b"Try next" in output
    assert len(rows(folder / "unicode.sqlite")) > 100_000


@pytest.mark.parametrize("kill", [False, True], ids=["interrupted", "killed"])
def test_demo_leaves_no_server_behind(
    start: Callable[..., Process], folder: Path, kill: bool
) -> None:
    """
    When the client is interrupted or killed, its server ends too, and what was there before stays.
    """
    (folder / "unicode.sqlite").write_text("from before")
    demo = start(EXAMPLES / "unicode_demo.py", cwd=folder)
    server = int(demo.wait_for(r"The server is process (\d+)"))
    demo.wait_for(r"(10,000) rows written")
    if kill:
        demo.popen.kill()
        demo.wait_for_end_of_output()
    else:
        assert demo.interrupt() == 1
        assert demo.output.endswith("Interrupted.\n")
        with pytest.raises(ProcessLookupError):
            os.kill(server, 0)
    assert "Traceback" not in demo.output
    assert [path.name for path in folder.iterdir()] == ["unicode.sqlite"]
    assert (folder / "unicode.sqlite").read_text() == "from before"


# Files


@pytest.fixture
def receiver(start: Callable[..., Process], folder: Path) -> Process:
    """
    The receiving side, with files for *folder*.
    """
    return start(EXAMPLES / "send_file.py", "receive", folder, "--port", 0)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_file_arrives_whole(
    start: Callable[..., Process], receiver: Process, folder: Path, tmp_path: Path, size: int
) -> None:
    """
    A binary file of any size arrives under its name, in place of an older one.
    """
    data = random.Random(size).randbytes(size)
    name = "Résumé of 2 files.bin"
    (tmp_path / name).write_bytes(data)
    (folder / name).write_text("an older version")
    port = receiver.wait_for(r"port (\d+)")
    sender = start(EXAMPLES / "send_file.py", "send", tmp_path / name, "--port", port)
    assert sender.wait() == 0, sender.output
    assert (folder / name).read_bytes() == data
    assert hashlib.sha256(data).hexdigest() in sender.output
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_file_that_is_not_whole_never_appears(receiver: Process, folder: Path) -> None:
    """
    Wrong content or a missing end is refused, and leaves what was there before.
    """
    (folder / "file").write_text("an older version")
    client = StationClient("127.0.0.1", int(receiver.wait_for(r"port (\d+)")))
    wrong = Packet(size=3, sha256=hashlib.sha256(b"other").hexdigest())
    for flow in ([Packet(data=b"abc"), wrong], [Packet(data=b"abc")], []):
        with pytest.raises(ServerError) as caught:
            client.send(flow, header={"name": "file"})
        assert caught.value.error_class == "ValueError"
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "an older version"


def test_a_file_stays_in_its_folder(receiver: Process, folder: Path, tmp_path: Path) -> None:
    """
    A name with a path in it counts as its last part.
    """
    client = StationClient("127.0.0.1", int(receiver.wait_for(r"port (\d+)")))
    total = Packet(size=3, sha256=hashlib.sha256(b"abc").hexdigest())
    client.send([Packet(data=b"abc"), total], header={"name": "../evil"})
    assert (folder / "evil").read_bytes() == b"abc"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


# Flask


def test_flask_shows_what_has_arrived(start: Callable[..., Process]) -> None:
    """
    One process serves the page and takes flows, whole ones and a failed one.
    """
    app = start(EXAMPLES / "flask_app.py", 0, 0)
    port = app.wait_for(r"Flows arrive on port (\d+)")
    url = app.wait_for(r"The page is (\S+)")

    def get(path: str) -> str:
        with urlopen(url + path, timeout=SECONDS) as answer:
            return answer.read().decode()

    assert "<title>Flows that have arrived</title>" in get("")
    assert json.loads(get("arrived")) == []
    client = start(EXAMPLES / "client.py", port)
    assert client.wait() == 0, client.output
    assert "10000 packets are on the page" in client.output

    def failing() -> Iterator[Packet]:
        yield Packet(html="<b>")
        raise LookupError

    with pytest.raises(LookupError):
        StationClient("127.0.0.1", int(port)).send(failing(), header={})
    deadline = time.monotonic() + SECONDS
    flows: list[Any] = []
    while len(flows) < 2 or flows[0]["state"] == "arriving":  # the client needn't wait for that
        assert time.monotonic() < deadline
        flows = json.loads(get("arrived"))
    failed, complete = flows
    assert (failed["state"], failed["packets"]) == ("failed", 1)
    assert "LookupError" in failed["last"]
    assert (complete["state"], complete["packets"]) == ("complete", 10000)
    assert "my_action" in complete["header"]
    assert app.interrupt() == 0
    assert "Traceback" not in app.output


@pytest.mark.timeout(150)
def test_rows_are_written_exactly_once_whatever_is_killed() -> None:
    """
    A server is killed ten times in mid-load, and each row is in the table once.
    """
    done = subprocess.run(
        [*PYTHON, EXAMPLES / "exactly_once.py", "--rows", "1200"],
        capture_output=True,
        check=False,
        text=True,
        timeout=140,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("killed") for line in lines) == 11
    assert "1200 packets handled, 1200 rows in the table" in lines
    assert lines[-1] == "each of them exactly once"
