"""What is shipped, and under which name."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"transport": "pyf.transport", "pyf_station": "pyf.station"}


@pytest.mark.parametrize(("folder", "name"), NAMES.items())
def test_a_folder_is_not_importable_by_its_own_name(folder, name):
    """
    Importing a folder from the root of the checkout fails and says what to import instead.
    """
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: ")
    assert name in last_line


@pytest.mark.parametrize("name", NAMES.values())
def test_types_are_shipped(name):
    """
    Each package holds py.typed, so that type checkers believe its annotations.
    """
    assert resources.files(name).joinpath("py.typed").is_file()


@pytest.mark.parametrize(("folder", "name"), NAMES.items())
def test_the_tests_run_on_what_they_claim_to(folder, name, pytestconfig):
    """
    In the checkout its own files are tested; without pythonpath an installed copy is.
    """
    origin = importlib.import_module(name).__file__
    assert origin is not None
    in_checkout = Path(origin).resolve().parent == ROOT / folder
    assert in_checkout == bool(pytestconfig.getini("pythonpath"))


def test_twist_finds_the_installed_service(tmp_path):
    """
    Without the checkout in sight ``twist`` knows us: so does who installed us, editable or not.
    """
    done = subprocess.run(
        [sys.executable, "-m", "twisted", "pyf-station", "--help"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "--handler MODULE:NAME" in done.stdout, done.stderr


def names(requirements):
    return {re.split(r"[>\[]", each)[0].lower() for each in requirements}


def test_the_readme_says_why_each_dependency_and_each_extra_is_there():
    """
    One row for each, in both tables, and no others.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    needed = re.findall(r"^\| (\w+) \| \w.+ \|$", text, re.MULTILINE)
    extras = dict(re.findall(r"^\| `(\w+)` \| ([\w, -]+) \| \w?.+ \|$", text, re.MULTILINE))
    assert {each.lower() for each in needed} - {"needs", "extra"} == names(project["dependencies"])
    brought = {extra: names(each) for extra, each in project["optional-dependencies"].items()}
    # Twisted's extra stands for what it brings, and so does psycopg's.
    other = {"tls": {"pyopenssl", "service-identity"}, "postgresql": {"psycopg"}}
    expected = brought | other
    assert {extra: set(each.lower().split(", ")) for extra, each in extras.items()} == expected
