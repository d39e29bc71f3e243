"""The command line, ``pyf-station``. Needs the extra ``pyf.station[cli]``."""

from __future__ import annotations

import signal
import sys

INSTALL = "pyf-station: this needs the extra 'cli': python -m pip install 'pyf.station[cli]'"


def main() -> None:
    """Run the command line; does not return."""
    try:
        import click  # noqa: F401 - is it there?
    except ImportError:
        sys.exit(INSTALL)
    # Until there is something to end, Ctrl-C ends the process without a word.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pyf.station.cli.app import cli

    signal.signal(signal.SIGINT, handler)
    cli(prog_name="pyf-station")
