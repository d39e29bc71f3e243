"""Coroutine handlers where Twisted runs on asyncio's event loop: both worlds can be awaited."""

import subprocess
import sys
from pathlib import Path

SERVER = Path(__file__).parent / "asyncio_reactor.py"


def test_handlers_await_asyncio_and_twisted():
    """
    Under asyncio's reactor a handler awaits sleep, timeout, task groups and Deferreds; cancelled,
    it hears of it in the way of asyncio; and a thousand of them are on their way at once.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SERVER), "1000"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "sleep, timeout, group, deferred",
        "cancelled: CancelledError FlowCancelled",
        "cancelled: CancelledError FlowCancelled",
        "failed: ServerError ValueError",
        "at once: 1000",
    ]
    assert done.stderr.count("Traceback") == 1, done.stderr
