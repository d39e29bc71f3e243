"""A process that forks with flows open: they go on in the parent, and only there."""

import os
import subprocess
import sys
import textwrap

import pytest

WAIT = 30.0

PRELUDE = """
    import os, sys, warnings
    from pyf.station import StationClient
    from pyf.transport import LocalProtocolError

    warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
    client = StationClient("127.0.0.1", int(sys.argv[1]), True)

    def in_child(function):
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            function()
            code = 3
        except LocalProtocolError as error:
            assert "from which this one was forked" in str(error)
            code = 7 if error.code == "forked" else 8
        os._exit(code)

    def numbers():
        for n in range(3000):
            yield {"n": n}
"""

SCRIPTS = {
    "a fork while a thread is first in line": """
        from pyf.station.line import line

        with line._head:
            assert in_child(line.give_way) == 3
        print("fine")
    """,
    "a call": """
        call = client.call(numbers())
        for _ in range(5):
            next(call)
        assert in_child(lambda: list(call)) == 7
        *_, last = call
        assert last["message"] == 3000, last
        print("fine")
    """,
    "a conversation": """
        with client.open({"n": 0}) as conversation:
            conversation.send({"n": 1})
            assert in_child(lambda: conversation.send({"n": 2})) == 7
            assert in_child(lambda: conversation.receive(1)) == 7
            assert in_child(conversation.end) == 7
            conversation.send({"n": 2})
            assert conversation.end() == 3
        print("fine")
    """,
    "a fork in the generator": """
        codes = []

        def forking():
            yield {"n": 0}
            child = os.fork()
            if child:
                codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            yield {"n": 1}

        parent = os.getpid()
        try:
            *_, last = client.call(forking())
        except LocalProtocolError as error:
            os._exit(7 if os.getpid() != parent and error.code == "forked" else 8)
        assert last["message"] == 2, last
        assert codes == [7], codes
        print("fine")
    """,
    "a new call in the child": """
        with client.open({"n": 0}) as conversation:
            assert in_child(lambda: client.send(numbers()) == 3000 or os._exit(9)) == 3
            assert conversation.end() == 1
        print("fine")
    """,
    "a child that leaves the call behind": """
        def leave():
            call.close()
            os._exit(5)

        call = client.call(numbers())
        next(call)
        assert in_child(leave) == 5
        *_, last = call
        assert last["message"] == 3000, last
        print("fine")
    """,
    "a close in the parent": """
        import signal
        call = client.call(numbers())
        next(call)
        child = os.fork()
        if not child:
            signal.pause()
        call.close()  # is heard, though the child lives
        try:
            assert client.send(numbers()) == 3000
            print("fine")
        finally:
            os.kill(child, signal.SIGKILL)
    """,
}


def count(flow, client):
    return sum(1 for _ in flow)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_flow_stays_with_the_process_that_opened_it(serve, name):
    """
    The child gets a clear error, and the parent goes on; new calls work in both.
    """
    port = serve(count)
    script = textwrap.dedent(PRELUDE) + textwrap.dedent(SCRIPTS[name])
    done = subprocess.run(
        [sys.executable, "-c", script, str(port)],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
