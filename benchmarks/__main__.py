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
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import certificate, contestants, report
from benchmarks.cases import CASE, CASES, DEMANDS, HUGE, OURS, Case
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
        for results in measure(plan(found, args), args.repeat or (1 if args.quick else 5)):
            measured += results
            if not args.quick:
                keep(results, missing)  # an hour is long: what is known is kept
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
    """Run everything; yield the results of cases that are compared, one for each contestant."""
    from tqdm import tqdm

    with certificates(), tqdm(total=sum(len(who) for _, who in todo) * repeat) as bar:
        for together in compared(todo):
            rounds = [Rounds(case, playing, bar) for case, playing in together]
            for _ in range(repeat):
                for each in rounds:
                    each.run()
            yield [result for each in rounds for result in each.results()]


def compared(todo: Plan) -> Iterable[Plan]:
    """Return the cases that are compared with each other together: a machine has slow hours."""
    than = {demand.case: demand.than for demand in DEMANDS if demand.than}
    found: dict[str, Plan] = {}
    for case, playing in todo:
        found.setdefault(than.get(case.name, case.name), []).append((case, playing))
    return found.values()


class Rounds:
    """The runs of one case. Contestants take turns: A B A B. One that fails takes no more part."""

    def __init__(self, case: Case, playing: list[Contestant], bar: Any) -> None:
        self.case = case
        self.playing = sorted(playing, key=lambda each: each.name != BASE)
        self.runs: dict[str, list[Figures]] = {each.name: [] for each in playing}
        self._failed: set[str] = set()
        self._bar = bar

    def run(self) -> None:
        """Give each contestant its turn."""
        base: Figures = {}
        for contestant in self.playing:
            figures = self._figures(contestant)
            base = figures if contestant.name == BASE else base
            if figures:
                self.runs[contestant.name].append(with_ratios(figures, base))
            self._bar.update()

    def _figures(self, contestant: Contestant) -> Figures:
        self._bar.set_description(f"{self.case.name}: {contestant.name}")
        if contestant.name in self._failed:
            return {}
        try:
            return run(contestant, self.case)
        except Failed as error:
            self._failed.add(contestant.name)
            self._bar.write(f"{self.case.name}: {error}")
            return {}

    def results(self) -> list[dict[str, Any]]:
        """Return what was measured, for each contestant."""
        now = datetime.now(UTC).date().isoformat()
        load = round(os.getloadavg()[0], 1)
        return [
            {"case": self.case.name, "contestant": each.name, "title": each.title}
            | {"how": each.how, "date": now, "load": load, "runs": self.runs[each.name]}
            for each in self.playing
            if self.runs[each.name]
        ]


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
