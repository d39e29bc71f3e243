"""The command line in this process, and as processes of its own."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import twisted.internet.reactor  # noqa: F401 - commands load it, and it stays: no test leaves it behind
from click.testing import CliRunner

from pyf.station.cli.app import cli

SECONDS = 30
# An import from the checkout, where it is not installed.
PATHS = [str(Path(path)) for path in sys.path if Path(path, "pyf", "station").is_dir()]


@pytest.fixture
def run():
    """
    Run a command here; return its result.
    """

    def run(*args, input=None):
        return CliRunner().invoke(cli, list(map(str, args)), input=input, prog_name="pyf-station")

    return run


class Process:
    """A command as a process, its stdin, stdout and stderr being pipes."""

    def __init__(self, *args, cwd):
        paths = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "pyf.station", *map(str, args)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": paths.strip(os.pathsep)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.said = ""

    def hear(self, pattern):
        """
        Read stderr until a line of it matches; return the match.
        """
        for line in self.popen.stderr or ():
            self.said += line.decode()
            if found := re.search(pattern, line.decode()):
                return found
        raise AssertionError(f"it never said {pattern!r}, but:\n{self.said}")

    def port(self):
        return int(self.hear(r" on \S+:(\d+)$")[1])

    def end(self, number: int | None = signal.SIGTERM):
        """
        Send a signal, unless it is None; return exit code and stdout once it has ended.
        """
        if number is not None:
            self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=SECONDS)
        self.said += err.decode()
        return self.popen.returncode, out.decode()


@pytest.fixture
def start(tmp_path):
    """
    Start a command as a process in *tmp_path*; it is killed after the test, if it must be.
    """
    started = []

    def start(*args):
        started.append(Process(*args, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        if process.popen.poll() is None:
            os.killpg(process.popen.pid, signal.SIGKILL)
        process.popen.communicate(timeout=SECONDS)
