"""Measure, show the progress, keep the figures, and write the page.

benchmarks/run                        everything, and docs/performance.md from it: about an hour
benchmarks/run --quick                no rivals, little of each; keeps nothing
benchmarks/run --case there trip      some cases
benchmarks/run --contestant station   some contestants, and what they are compared with
benchmarks/run --page                 only write the page, from the figures that are kept
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import certificate, contestants, report
from benchmarks.cases import CASE, CASES, HUGE, OURS, Case
from benchmarks.contestant import Contestant
from benchmarks.drive import Failed, Figures, run

BASE = "limit"
RESULTS = Path(__file__).resolve().parent / "results.json"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements.txt"
QUICK_SHARE = 10  # a quick run has this part of the packets

Plan = list[tuple[Case, list[Contestant]]]


def main() -> None:
    args = arguments()
    if not args.page:
        found, missing = contestants.load_all()
        for module, why in missing.items():
            print(f"left out: {module} ({why})")
        measured = []
        for of_case in measure(plan(found, args), args.repeat or (1 if args.quick else 5)):
            measured += of_case
            if not args.quick:
                keep(of_case, missing)  # an hour is long: what is known is kept
        if args.quick:
            print(report.listing(measured))
            return
    report.write(json.loads(RESULTS.read_text(encoding="utf-8")))
    print(f"written: {report.PAGE}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="at most two minutes")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--repeat", type=int, help="runs of each contestant in a case")
    parser.add_argument("--case", nargs="+", metavar="NAME", choices=CASE, help=", ".join(CASE))
    parser.add_argument("--contestant", nargs="+", metavar="NAME", help="some of them")
    parser.add_argument("--huge", action="store_true", help="also 10^8 packets: some minutes")
    return parser.parse_args()


def plan(found: dict[str, Contestant], args: argparse.Namespace) -> Plan:
    """Return who takes part in which case. The base always does: the ratios are to it."""
    names = args.contestant or ([*OURS] if args.quick else [*found])
    playing = [found[name] for name in found if name in {BASE, *names}]
    chosen = [CASE[name] for name in args.case or ()] or [
        case
        for case in CASES
        if (args.huge or case.name not in HUGE) and (case.quick or not args.quick)
    ]
    if args.quick:
        chosen = [smaller(case) for case in chosen]
    pairs = [(case, [each for each in playing if takes_part(each, case)]) for case in chosen]
    return [(case, each) for case, each in pairs if any(one.name != BASE for one in each)]


def takes_part(contestant: Contestant, case: Case) -> bool:
    return contestant.plays(case) and (not case.exact or contestant.name in {BASE, *OURS})


def smaller(case: Case) -> Case:
    return replace(case, count=max(100, case.count // QUICK_SHARE)) if not case.rate else case


def measure(todo: Plan, repeat: int) -> Iterator[list[dict[str, Any]]]:
    """Run everything; yield the results of each case, one for each contestant."""
    from tqdm import tqdm

    with certificates(), tqdm(total=sum(len(who) for _, who in todo) * repeat) as bar:
        for case, playing in todo:
            runs = measure_case(case, playing, repeat, bar)
            now = datetime.now(UTC).date().isoformat()
            yield [
                {"case": case.name, "contestant": each.name, "title": each.title, "how": each.how}
                | {"date": now, "load": round(os.getloadavg()[0], 1), "runs": runs[each.name]}
                for each in playing
                if runs[each.name]
            ]


def measure_case(
    case: Case, playing: list[Contestant], repeat: int, bar: Any
) -> dict[str, list[Figures]]:
    """Run one case. Contestants take turns: A B A B. One that fails once takes no more part."""
    runs: dict[str, list[Figures]] = {each.name: [] for each in playing}
    failed: set[str] = set()
    for _ in range(repeat):
        base: Figures = {}
        for contestant in sorted(playing, key=lambda each: each.name != BASE):
            name = contestant.name
            bar.set_description(f"{case.name}: {name}")
            try:
                figures = {} if name in failed else run(contestant, case)
            except Failed as error:
                failed.add(name)
                bar.write(f"{case.name}: {error}")
                figures = {}
            base = figures if name == BASE else base
            if figures:
                runs[name].append(with_ratios(figures, base))
            bar.update()
    return runs


def with_ratios(figures: Figures, base: Figures) -> Figures:
    """Add how the figures compare with the base in the same round."""
    known = figures.keys() & base.keys() & {"rate", "cpu", "p50"}
    return figures | {f"{name}_ratio": figures[name] / base[name] for name in sorted(known)}


@contextmanager
def certificates() -> Generator[None]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ[certificate.FOLDER] = folder
        certificate.make(Path(folder))
        yield


def keep(measured: list[dict[str, Any]], missing: dict[str, str]) -> None:
    """Put what was measured in the place of what was known of the same contestants and cases."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"results": []}
    new = {(each["case"], each["contestant"]) for each in measured}
    old = [each for each in known["results"] if (each["case"], each["contestant"]) not in new]
    order = [*CASE]
    results = sorted(old + measured, key=lambda each: (order.index(each["case"]), each["title"]))
    data = {"machine": machine(), "missing": missing, "results": results}
    text = json.dumps(data, indent=1, default=float)
    RESULTS.write_text(f"{text}\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return what the figures depend on, beside the contestants."""
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "processor": next(line.split(": ")[1] for line in cpus if line.startswith("model name")),
        "cores": os.cpu_count(),
        "memory": round(memory),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    names = [line.split("==")[0] for line in lines if "==" in line]
    found = {}
    for name in ["pyf.station", "Twisted", "ormsgpack", *names]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s")
