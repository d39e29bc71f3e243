"""Soaks client and server, and writes down what came of it. ``script/soak --help`` says how."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from soak_checks import CHECKS, Finding
from soak_tools import Progress

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
TABLE = re.compile(r"(<!-- soak -->\n).*(<!-- end of soak -->)", re.DOTALL)


def main() -> int:
    """Run what is asked for; return 1 if something did not hold."""
    parser = argparse.ArgumentParser(prog="script/soak", description=__doc__)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="part of the full counts (%(default)g)"
    )
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="CHECK")
    parser.add_argument("--minutes", type=float, default=60.0, help="for each check (%(default)g)")
    parser.add_argument("--write", action="store_true", help=f"write the table of {PAGE.name}")
    options = parser.parse_args()
    rows, failed = _written(), False
    for name in options.only:
        check = CHECKS[name]
        count = max(check.least, round(options.scale * check.full))
        progress = Progress(check.what, count, 60 * options.minutes)
        try:
            finding = check.run(progress)
        except Exception as error:  # noqa: BLE001 - the others are still to run
            finding = Finding(f"{type(error).__name__}: {error}", held=False)
        failed |= not finding.held
        held = "yes" if finding.held else "**no**"
        what = f"{progress.done:,} of {check.full:,} {check.what}"
        rows[name] = f"| {what} | {check.promise} | {finding.text} | {held} | {_when()} |"
        print(rows[name], flush=True)
        if options.write:
            _write(rows)
    return failed


_HEAD = (
    "| How much, of the full count | What has to hold | What was seen | Held | When |",
    "|---|---|---|---|---|",
)


def _written() -> dict[str, str]:
    """Return the rows of the page, for the checks that are not run now."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {
        name: line
        for name, check in CHECKS.items()
        for line in lines
        if f"{check.full:,} {check.what} |" in line
    }


def _write(rows: dict[str, str]) -> None:
    table = "\n".join([_where(), "", *_HEAD, *(rows[name] for name in CHECKS if name in rows), ""])
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda match: match[1] + table + match[2], text), encoding="utf-8")


def _where() -> str:
    return (
        f"On {platform.system()} {platform.release().split('-')[0]} on {platform.machine()}, "
        f"{os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}."
    )


def _when() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}, at a load of {os.getloadavg()[0]:.0f}"


if __name__ == "__main__":
    sys.exit(main())
