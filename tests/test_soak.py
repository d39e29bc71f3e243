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
    assert re.fullmatch(
        r"\| [\d,]+ of [\d,]+ .* \| yes \| [-\d]+, at a load of \d+ \|\n", done.stdout
    )
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


def test_a_killed_peer_is_known_to_be_dead():
    """
    Both sides find out; how soon, on a busy machine, is nothing for a test.
    """
    done = soak("--scale", "0.0001", "--only", "kills")
    assert re.search(r"known after [\d.]+ s at most", done.stdout), done.stdout + done.stderr


def test_what_is_written_takes_the_place_of_the_same_check_only(tmp_path, monkeypatch):
    """
    The other rows stay as they were, and so does the text around the table.
    """
    monkeypatch.syspath_prepend(ROOT / "script")
    import soak as script  # pyright: ignore[reportMissingImports]

    page = tmp_path / "page.md"
    page.write_text(script.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(script, "PAGE", page)
    rows = script._written()
    assert set(rows) == set(script.CHECKS)
    script._write(rows)
    before = page.read_text(encoding="utf-8").splitlines()
    script._write(rows | {"model": "| the model |"})
    after = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in before if line not in after] == [rows["model"]]
    assert [line for line in after if line not in before] == ["| the model |"]
