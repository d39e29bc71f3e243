"""Flame graphs of both processes of a case, drawn by py-spy into docs/performance/."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks import contestants
from benchmarks.cases import CASE
from benchmarks.contestant import Contestant
from benchmarks.drive import ROOT, environment

FOLDER = ROOT / "docs" / "performance"
RATE = 500  # samples a second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", nargs="?", default="there", choices=CASE)
    parser.add_argument("contestant", nargs="?", default="station")
    args = parser.parse_args()
    found, _ = contestants.load_all()
    for path in draw(found[args.contestant], args.case):
        print(f"written: {path}")


def draw(contestant: Contestant, name: str) -> list[Path]:
    """Run the case once, with a sampler beside each process; return the two pictures."""
    case = replace(CASE[name], exact=True)
    what = [contestants.module_of(contestant), contestant.name, json.dumps(asdict(case))]
    command = [sys.executable, "-m", "benchmarks.drive"]
    FOLDER.mkdir(exist_ok=True)
    server_picture, client_picture = (
        FOLDER / f"flame-{name}-{end}.svg" for end in ("server", "client")
    )
    server = subprocess.Popen(
        [*command, "serve", *what], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert server.stdout is not None
    place = server.stdout.readline().split()
    sampler = subprocess.Popen([*py_spy(server_picture), "--pid", place[1]])
    measuring = [*command, "measure", *what, *place]
    subprocess.run([*py_spy(client_picture), "--", *measuring], check=True, env=environment())
    server.terminate()
    server.wait()
    sampler.wait()
    for picture in (server_picture, client_picture):
        text = picture.read_text(encoding="utf-8")
        for folder in (ROOT, Path(sys.prefix) / "bin"):  # where that is here tells nobody anything
            text = text.replace(f"{folder}/", "")
        picture.write_text(text, encoding="utf-8")
    return [server_picture, client_picture]


def py_spy(picture: Path) -> list[str]:
    """Return a command that samples until the process ends; threads that wait are left out."""
    program = Path(sys.executable).parent / "py-spy"
    options = ["--rate", str(RATE), "--native", "--format", "flamegraph", "--output", str(picture)]
    return [str(program), "record", *options]


if __name__ == "__main__":
    main()
