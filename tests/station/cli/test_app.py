"""The commands are found by their names, and each brings what it needs."""

import subprocess
import sys

import click
import pytest

from pyf.station.cli.app import COMMANDS, cli


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_where_the_table_says(name):
    """
    Under its own name, and with a help of its own.
    """
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_the_help_tells_of_all_commands(run):
    """
    In the order of the alphabet.
    """
    done = run("--help")
    assert done.exit_code == 0
    lines = done.stdout.partition("Commands:\n")[2].splitlines()
    assert [
        line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "
    ] == sorted(COMMANDS)


def test_an_unknown_command_is_wrong_usage(run):
    """
    With the exit code of that.
    """
    done = run("nope")
    assert done.exit_code == 2
    assert "No such command 'nope'" in done.stderr


@pytest.mark.parametrize("name", ["bench", "call", "ping", "replay", "send-file"])
def test_a_client_needs_no_twisted(name):
    """
    Loading that would take longer than most calls.
    """
    code = (
        "import sys; from pyf.station.cli.app import cli; import click;"
        f"cli.get_command(click.Context(cli), {name!r});"
        "sys.exit(', '.join(each for each in sys.modules if each.startswith('twisted')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, timeout=60
    )
    assert done.stderr.decode().strip() == ""
