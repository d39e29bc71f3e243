"""The commands, as one program."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from pyf.station.cli.common import Commands

COMMANDS: Final = {
    "bench": "sending",
    "call": "sending",
    "ping": "ping",
    "receive-file": "serving",
    "record": "serving",
    "replay": "sending",
    "send-file": "sending",
    "serve": "serving",
}
"""The module of each command, which is loaded when it is asked for: clients need no Twisted."""


class _Program(Commands):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"pyf.station.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pyf.station", prog_name="pyf-station")
def cli() -> None:
    """Serve and send flows of packets over TCP.

    Packets are lines of JSON here; what JSON lacks is written as {"$decimal": "1.50"}.

    \b
    Examples:
      pyf-station serve handlers:import_rows --endpoint tcp:8000
      pyf-station call localhost:8000 -H table=prices < rows.ndjson | jq .
      pyf-station ping localhost:8000 -c 3

    Exit codes: 0 it went well, 1 it failed, 2 wrong usage, 130 Ctrl-C.
    """
