"""The soak itself, at a scale that shows no more than that it works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def soak(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "script" / "soak.py"), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("check", ["flows", "storms", "crowd", "long", "cuts", "model", "resumes"])
def test_what_is_to_hold_holds_at_a_tiny_scale(check):
    """
    The check runs to its end, and its row says how much of the full count that was.
    """
    done = soak("--scale", "0.0001", "--only", check)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"\| [\d,]+ of [\d,]+ .* \| yes \|\n", done.stdout)
    assert "Traceback" not in done.stderr


def test_flows_that_nobody_reads_fill_their_windows_and_no_more():
    """
    The healthy flow's rate is nothing that a test on a busy machine could tell.
    """
    done = soak("--scale", "0.0001", "--only", "stalled")
    found = re.search(r"(\d+)% of the windows was sent; memory (\d+)% of them", done.stdout)
    assert found, done.stdout + done.stderr
    assert int(found[1]) > 99
    assert int(found[2]) <= 120
