"""A blocking client in an interpreter that exits: each claim in a process of its own."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from pyf.transport import BadFlowEnding, ClientError, FlowCancelled, Limits

WAIT = 30.0

PREAMBLE = """
import itertools, os, signal, sys, threading
from pyf.station import StationClient

def endless():
    try:
        while True:
            yield {'n': 1}
    finally:
        print('finally', flush=True)

client = StationClient('127.0.0.1', int(sys.argv[1]), True)
"""


class Flows:
    """
    A handler that reads to the end, and notes which one it was.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.endings: list[BaseException | None] = []

    def __call__(self, flow, client):
        ending: BaseException | None = None
        try:
            for _ in flow:
                pass
        except BaseException as error:
            ending = error
            raise
        finally:
            with self.changed:
                self.endings.append(ending)
                self.changed.notify_all()

    def wait(self) -> BaseException | None:
        """
        How the one flow ended.
        """
        with self.changed:
            assert self.changed.wait_for(lambda: self.endings, WAIT)
            (ending,) = self.endings
            return ending


def start(script: str, port: int) -> "subprocess.Popen[str]":
    # Not measured: coverage's tracer has a lock, which a Ctrl-C at the wrong moment leaves locked.
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith("COVERAGE_")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(script), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=inherited | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    with process:
        try:
            out, err = process.communicate(timeout=WAIT)
        finally:
            process.kill()
    return process.returncode, out, err


@pytest.fixture
def flows() -> Flows:
    return Flows()


@pytest.mark.parametrize(
    "script",
    [
        "call = client.call(endless()); next(call)",
        "call = client.call(endless()); it = iter(call); next(it); cycle = [it]; cycle += [cycle]",
        "def run():\n    call = client.call(endless()); next(call); sys.exit()\nrun()",
        "import builtins; builtins.call = client.call(endless()); next(builtins.call)",
    ],
)
def test_an_interpreter_exits_with_a_call_open(serve, flows, script):
    """
    No traceback, no wait for the server; the handler hears that the flow is over.
    """
    code, _, err = finish(start(script, serve(flows)))
    assert (code, err) == (0, "")
    assert isinstance(flows.wait(), FlowCancelled | BadFlowEnding)


def test_an_interpreter_exits_with_a_conversation_open(serve, flows):
    """
    The same for a conversation without its `with`.
    """
    script = "flow = client.open(); flow.send({'n': 1})"
    code, _, err = finish(start(script, serve(flows)))
    assert (code, err) == (0, "")
    assert isinstance(flows.wait(), FlowCancelled | BadFlowEnding)


def test_an_interpreter_exits_while_a_daemon_thread_iterates(serve, flows):
    """
    A thread that is stopped in the middle holds up nobody.
    """
    script = """
        started = threading.Event()

        def run():
            for _ in client.call(endless()):
                started.set()

        threading.Thread(target=run, daemon=True).start()
        started.wait()
    """
    code, _, err = finish(start(script, serve(flows)))
    assert (code, err) == (0, "")
    assert isinstance(flows.wait(), FlowCancelled | BadFlowEnding)


def test_an_exception_that_ends_the_process_is_told(serve, flows):
    """
    A script that fails in its own generator has told the handler before it exits.
    """
    script = """
        def source():
            yield {'n': 1}
            raise KeyError('mine')

        client.send(source())
    """
    code, _, err = finish(start(script, serve(flows)))
    assert code == 1
    assert err.rstrip().endswith("KeyError: 'mine'")
    ending = flows.wait()
    assert isinstance(ending, ClientError)
    assert (ending.error_class, ending.sent) == ("KeyError", 1)


@pytest.mark.parametrize("packets", [1, 2, 50, 3000, 20_000])
@pytest.mark.parametrize(
    "script",
    [
        "client.send(endless())",
        "for _ in client.call(endless()): pass",
        "with client.open() as flow:\n    for packet in endless(): flow.send(packet)",
    ],
)
def test_ctrl_c_at_any_moment_is_told(serve, script, packets):
    """
    The process dies of the signal, the generator's finally has run once, and the handler gets a
    typed error: never garbage, never the end of a whole flow.
    """
    endings: list[BaseException | None] = []
    done = threading.Event()

    def handler(flow, client):
        try:
            for number, packet in enumerate(flow, 1):
                assert packet == {"n": 1}
                if number == packets:
                    process.send_signal(signal.SIGINT)
        except BaseException as error:
            endings.append(error)
            raise
        finally:
            done.set()

    # So that a server which is traced, and slow, is not seconds behind what it has let come.
    port = serve(handler, limits=Limits(window_packets=2000))
    ready = threading.Event()
    process = start(script, port)
    ready.set()
    code, out, err = finish(process)
    assert code == -signal.SIGINT
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert out.count("finally") == 1
    assert done.wait(WAIT)
    assert isinstance(endings[0], FlowCancelled | ClientError)
