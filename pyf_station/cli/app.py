"""The commands, as one program."""

from __future__ import annotations

from importlib.metadata import version

import click

from pyf.station.cli import ping, sending, serving
from pyf.station.cli.common import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("pyf.station"), prog_name="pyf-station")
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


for _command in (
    *(serving.serve, sending.call, serving.record, sending.replay),
    *(sending.send_file, serving.receive_file, ping.ping, sending.bench),
):
    cli.add_command(_command)
