"""The benchmarks: each of our contestants ships what it claims to, and the page is current."""

import importlib
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
COUNT = 40
SHIPPED = [
    *(
        ("station", "station", case)
        for case in ("back", "both", "trip", "call", "file", "flows-10", "pace-1000")
    ),
    ("station", "station-coroutine", "both"),
    ("station", "station-asyncio", "both"),
    ("station", "station-asyncio", "again"),
    ("station", "station-twisted", "both"),
    ("sockets", "limit", "both"),
    ("sockets", "limit", "flows-10"),
]


def load(name):
    """
    Import a module of the benchmarks, which are in the checkout and never installed.
    """
    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module(f"benchmarks{name}")
    finally:
        sys.path.remove(str(ROOT))


cases, report, svg, drive = map(load, (".cases", ".report", ".svg", ".drive"))
loader, command = load(".contestants"), load(".__main__")
DATA = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))


class Named:
    """
    A contestant that takes part in everything.
    """

    title = how = ""

    def __init__(self, name):
        self.name = name

    def plays(self, case):
        return True


@pytest.fixture
def small():
    """
    Figures of two contestants in one case.
    """

    def result(contestant, ratios):
        runs = [{"rate": 1000 * each, "rate_ratio": each, "cpu": 2 / each} for each in ratios]
        of = {"case": "there", "contestant": contestant, "title": contestant.title()}
        return of | {"how": "So.", "date": "2026-01-02", "load": 0.5, "runs": runs}

    machine = {"processor": "P", "cores": 2, "memory": 8, "system": "S", "python": "3"}
    results = [result("limit", [1, 1, 1]), result("station", [0.5, 0.75, 0.7])]
    return {"machine": machine | {"versions": {"a": "1"}}, "missing": {}, "results": results}


def test_the_page_is_what_the_figures_say():
    """
    docs/performance.md and its pictures are what is made of benchmarks/results.json.
    """
    for name, content in report.files(DATA).items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == content, name


def test_a_table_shows_median_minimum_and_maximum(small):
    """
    A row for each contestant, the best first, and ours in bold.
    """
    page = report.files(small)["performance.md"]
    assert "| Limit | 1 | 2 |\n| **Station** | 0.7 (0.5 to 0.75) | 2.9 (2.7 to 4) |" in page


def test_the_page_says_whether_an_aim_is_met(small):
    """
    An aim that was measured is in the table with what came of it; the others are left out.
    """
    page = report.files(small)["performance.md"]
    assert "| there: rate | Station | ≥ 0.6 × of limit | 0.7 (0.5 to 0.75) | yes |" in page
    assert "| there: cpu | Station | ≤ 1 | 2.9 (2.7 to 4) | no |" in page
    assert "round trip" not in page


def test_the_page_says_whether_other_work_ran(small):
    """
    What was measured among a thousand threads of the benchmarks' own says nothing about that.
    """
    limit, station = small["results"]
    limit |= {"case": "flows-1", "load": 6.0}
    assert "other work ran" not in report.files(small)["performance.md"]
    station["load"] = 6.0
    assert "other work ran" in report.files(small)["performance.md"]


def test_what_a_call_takes_however_short_is_left_out_beyond_the_first_tenth(small):
    """
    1,000 packets in 2 s and 10,000 in 11 s are 9,000 in 9 s, round by round.
    """
    station = small["results"][1]
    tenth = station | {
        "case": "growth-1e3",
        "runs": [{"count": 1000, "rate": 500}, {"count": 1000, "rate": 1000}],
    }
    whole = station | {
        "case": "growth-1e4",
        "runs": [{"count": 10_000, "rate": 10_000 / 11}, {"count": 10_000, "rate": 2500}],
    }
    found = report.of([tenth, whole], "growth-1e4", "station", "beyond")
    assert found == pytest.approx((2000, 1000, 3000))
    assert report.of([whole], "growth-1e4", "station", "beyond") is None


def test_an_aim_that_names_another_case_compares_the_runs_of_each_round(small):
    """
    Where the machine became twice as fast behind the first round, that is not in the ratio.
    """
    aio = small["results"][1] | {"contestant": "station-asyncio"}
    trip = aio | {"case": "trip", "runs": [{"p50": 20.0}, {"p50": 10.0}, {"p50": 10.0}]}
    again = aio | {"case": "again", "runs": [{"p50": 28.0}, {"p50": 15.0}, {"p50": 16.0}]}
    page = report.files(small | {"results": [trip, again]})["performance.md"]
    assert "| Station | ≤ 1.5 × of round trip | 1.5 (1.4 to 1.6) | yes |" in page


def test_bars_are_as_long_as_their_values():
    """
    The widest bar takes the whole width, the others their share of it.
    """
    picture = svg.bars([("a", 1.0, True), ("b", 0.5, False)])
    assert 'width="420.0"' in picture
    assert 'width="210.0"' in picture


def test_lines_show_each_curve():
    """
    Each curve is a line with its name.
    """
    picture = svg.lines({"<a>": [(1, 1), (10, 100)], "b": [(1, 10), (10, 10)]}, "x", "y")
    assert picture.count("<polyline") == 2
    assert "&lt;a&gt;" in picture


@pytest.mark.parametrize(("module", "name", "case_name"), SHIPPED)
def test_a_contestant_ships_what_it_claims(module, name, case_name):
    """
    A run of a few packets, in processes of its own, comes to the right sum and to figures.
    """
    try:
        contestant = loader.load(module, name)
    except (ImportError, StopIteration):
        pytest.skip(f"{name} isn't here")
    case = replace(cases.CASE[case_name], count=COUNT)
    assert contestant.plays(case)
    figures = drive.run(contestant, case)
    assert figures["count"] == COUNT
    assert {"rate", "cpu", "client_memory", "server_memory"} <= figures.keys()
    assert ("p50" in figures) == (case.kind in {"trip", "call", "again", "pace"})


def test_a_wrong_sum_is_no_result():
    """
    A run whose far side came to another sum fails.
    """
    case = replace(cases.CASE["there"], count=4)
    assert drive.checked(6, case) == {}
    with pytest.raises(drive.Failed, match="5 arrived, not 6"):
        drive.checked(5, case)


def test_rivals_are_left_out_of_a_quick_run():
    """
    A quick run has our contestants, and the limit that they are compared with.
    """
    names = ("limit", "station", "zmq")
    found = {name: Named(name) for name in names}
    args = SimpleNamespace(quick=True, contestant=None, case=None, huge=False)
    plan = command.plan(found, args)
    assert {each.name for _, playing in plan for each in playing} == {"limit", "station"}
    assert {case.name for case, _ in plan} < cases.CASE.keys()


def test_what_is_asked_for_is_compared_with_the_limit():
    """
    A run of one rival in one case has the limit too; its ratios are to that.
    """
    found = {name: Named(name) for name in ("limit", "station", "zmq")}
    args = SimpleNamespace(quick=False, contestant=["zmq"], case=["there"], huge=False)
    [(case, playing)] = command.plan(found, args)
    assert case.name == "there"
    assert [each.name for each in playing] == ["limit", "zmq"]
    ratios = command.with_ratios({"rate": 50, "cpu": 3}, {"rate": 100, "cpu": 1, "p50": 1})
    assert ratios == {"rate": 50, "cpu": 3, "rate_ratio": 0.5, "cpu_ratio": 3}


def test_cases_that_are_compared_are_run_in_turns():
    """
    A contestant is compared with itself in another case: an hour later, the machine may be slower.
    """
    todo = [(cases.CASE[name], []) for name in ("trip", "flows-1", "again", "flows-10", "bulk")]
    together = [[case.name for case, _ in plan] for plan in command.compared(todo)]
    assert together == [["trip", "again"], ["flows-1", "flows-10"], ["bulk"]]


@pytest.mark.parametrize(
    ("case", "role", "kept"),
    [("trip", "measure", [{2}]), ("apart-1", "serve", [{2}]), ("apart-1", "measure", [{5}])],
)
def test_an_end_keeps_to_its_core(case, role, kept, monkeypatch):
    """
    Of those that it may use, both to the first or each to another one.
    """
    taken = []

    def keep(_, cores):
        taken.append(cores)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 2, 3}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", keep, raising=False)
    monkeypatch.setattr(drive, "measure", lambda *_: {})
    monkeypatch.setattr(drive.contestants, "load", lambda *_: SimpleNamespace(serve=bool))
    drive.main(role, "station", "station", json.dumps(asdict(cases.CASE[case])), "0")
    assert taken == kept


def test_an_end_keeps_to_no_core_unless_the_case_says_so(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.setattr(drive, "measure", lambda *_: {})
    monkeypatch.setattr(drive.contestants, "load", lambda *_: None)
    drive.main("measure", "station", "station", json.dumps(asdict(cases.CASE["there"])), "0")


def test_one_that_fails_takes_no_more_part(monkeypatch):
    """
    The others go on, and it is not among the results.
    """
    asked = []

    def run(contestant, case):
        asked.append(contestant.name)
        if contestant.name == "zmq":
            raise drive.Failed("it hangs")
        return {"rate": 2.0}

    monkeypatch.setattr(command, "run", run)
    bar = SimpleNamespace(update=int, write=str, set_description=str)
    playing = [Named(name) for name in ("zmq", "station", "limit")]
    rounds = command.Rounds(cases.CASE["there"], playing, bar)
    for _ in range(2):
        rounds.run()
    assert asked == ["limit", "zmq", "station", "limit", "station"]
    assert rounds.runs["station"] == [{"rate": 2.0, "rate_ratio": 1.0}] * 2
    assert [each["contestant"] for each in rounds.results()] == ["limit", "station"]


def test_a_measurement_replaces_what_was_known_of_the_same(small, tmp_path, monkeypatch):
    """
    Figures of other contestants and cases stay.
    """
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.json")
    limit, station = small["results"]
    command.keep([limit, station], {})
    command.keep([station | {"load": 9.0}], {})
    kept = json.loads(command.RESULTS.read_text(encoding="utf-8"))
    assert [each["load"] for each in kept["results"]] == [0.5, 9.0]
