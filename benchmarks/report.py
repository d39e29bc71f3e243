"""The page docs/performance.md and its pictures, made from the figures that were measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import svg
from benchmarks.cases import CASE, DEMANDS, OURS, Demand
from benchmarks.drive import Figures
from benchmarks.statistics import Figure, figure

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = "performance.md"
TEXT = Path(__file__).resolve().parent / "preface.md"
BASE = "limit"

Results = list[dict[str, Any]]


class Section(NamedTuple):
    """A table: a row for each contestant, a column for each case and figure."""

    title: str
    text: str
    columns: tuple[tuple[str, str], ...]  # case and figure
    picture: str = ""  # "bars": of the first column; "lines": of the figure over the cases' sizes


RATES = ("rate_ratio",)
GROWTH = tuple(name for name in CASE if name.startswith("growth-"))
TENTH = dict(zip(GROWTH[1:], GROWTH, strict=False))
FLOWS = tuple(name for name in CASE if name.startswith("flows-"))
APART = tuple(name for name in CASE if name.startswith("apart-"))
PACES = tuple(name for name in CASE if name.startswith("pace-"))

SECTIONS = (
    Section(
        "Streams",
        "One call streams packets, and the far side sums a field. *Back*: the handler streams them to"
        " the client. *Both*: each comes back at once; both ways are counted. The rate is in multiples"
        " of the limit's; CPU is seconds for a million packets, both processes together.",
        (
            ("there", "rate_ratio"),
            ("back", "rate_ratio"),
            ("both", "rate_ratio"),
            ("there", "cpu"),
            ("there", "client_memory"),
            ("there", "server_memory"),
        ),
        "bars",
    ),
    Section(
        "Round trip",
        "A packet goes there and comes back, and then the next one. Both processes are pinned to one"
        " core: across two, the same code takes 7 or 90 µs, as the scheduler pleases.",
        (("trip", "p50"), ("trip", "p50_ratio"), ("trip", "p99")),
        "bars",
    ),
    Section(
        "Whole call",
        "Connect, header, one packet, success, close. *Open connection*: the same, on one that an"
        " asyncio or Twisted client has already, both processes pinned to one core.",
        (("call", "p50"), ("call", "p50_ratio"), ("call", "p99"), ("again", "p50")),
        "bars",
    ),
    Section(
        "Bytes and texts",
        "Packets of 64 KiB, in multiples of plain sockets without any packets; a file of up to"
        " 1 GiB, in multiples of plain copying, read to socket and socket to write; and packets with"
        " a text of 8 KiB.",
        (("bulk", "rate_ratio"), ("file", "rate_ratio"), ("texts", "rate_ratio")),
        "bars",
    ),
    Section(
        "Wide, nested and typed packets",
        "Packets of 100 fields; packets nested three deep; packets with a Decimal, a datetime and a"
        " UUID. Those who pack by msgspec are told the types; the others keep them by themselves.",
        (("wide", "rate_ratio"), ("nested", "rate_ratio"), ("typed", "rate_ratio")),
        "bars",
    ),
    Section(
        "Over TLS",
        "In multiples of the limit over TLS.",
        (("tls", "rate_ratio"), ("tls", "cpu")),
    ),
    Section(
        "Long flows",
        "Packets a second by the length of the flow, connecting included.",
        tuple((name, "rate") for name in GROWTH),
        "lines",
    ),
    Section(
        "Long flows, beyond their first tenth",
        "Packets a second of those that a flow has more than one of a tenth of its length: what a call"
        " takes, however short it is, is left out.",
        tuple((name, "beyond") for name in GROWTH),
    ),
    Section(
        "Many flows at once",
        "Packets a second of all flows together, ten million packets in all. The blocking client has a"
        " thread and a connection for each, and so has the limit; the others have one connection.",
        tuple((name, "rate") for name in FLOWS),
        "lines",
    ),
    Section(
        "Many flows, a core for each end",
        "The same, the threads of each end kept to one core, as `taskset` does, or `CPUAffinity=` for"
        " a unit of systemd's. On a machine of two cores that are both busy, Linux otherwise leaves"
        " threads of both ends on one of them while the other idles, the more often the more"
        " threads there are. A process runs Python on one core at a time anyway.",
        tuple((name, "rate") for name in APART),
        "lines",
    ),
    Section(
        "Fast and slow sources",
        "Half of the packets are with the handler within this time (µs) after the source gave them,"
        " at so many packets a second. A slow source's packets leave one by one, a fast one's in"
        " batches.",
        tuple((name, "p50") for name in PACES),
        "lines",
    ),
)

FLAMES = """\
## Where a packet's microsecond goes

Samples of a whole stream's run, every 2 ms, starting Python included; the wider, the more time. `benchmarks/flame` draws
them again, for any case.

A small extension does what costs most: encoding the packets as the source gives them, decoding a batch straight to Packets, and
reading their fields; another takes what is whole, in its turn and under credit in one step, which is what a packet that comes
alone needs, and a short call; a third reads and writes what is small before another thread has its turn, which is what many threads
need; a fourth gives a coroutine its packets without a step of Python's for each, which would take as long as decoding it.
They are compiled where there is a compiler; `PYF_STATION_PURE=1` shows what Python alone does. The rest of the client's time is
its source's and the socket's; that of the server, the handler's.

![The client's time](performance/flame-there-client.svg)

![The server's time](performance/flame-there-server.svg)"""

HEADINGS = {
    "rate_ratio": "{} × limit",
    "p50_ratio": "{} × limit",
    "rate": "{}",
    "beyond": "{}",
    "cpu": "{}: CPU s",
    "p50": "{}: p50 µs",
    "p99": "{}: p99 µs",
    "spread": "{}: p99/p50",
    "client_memory": "client MiB",
    "server_memory": "server MiB",
}
ASKED = {"spread": "p99/p50", "beyond": "rate beyond the first tenth"}
ALONE = 1.5  # load for each core that the benchmarks cause by themselves, at the most
BUSY = ": **other work ran on the machine, so these ratios are rough**"
BELOW = {"p50", "p99", "p50_ratio"}  # where less is better


def write(data: dict[str, Any], docs: Path = DOCS) -> None:
    """Write the page and its pictures into *docs*."""
    for name, content in files(data).items():
        path = docs / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")


def files(data: dict[str, Any]) -> dict[str, str]:
    """Return the content of each file that the page consists of, by its name in the docs."""
    results: Results = data["results"]
    found = {}
    parts = [TEXT.read_text(encoding="utf-8").format(**preface(data)), promises(results)]
    for section in SECTIONS:
        if table := table_of(section, results):
            parts += [f"## {section.title}", section.text, table]
            name = f"performance/{section.title.lower().replace(' ', '-').replace(',', '')}.svg"
            if drawn := drawing(section, results):
                found[name] = drawn
                parts.append(f"![{section.title}]({name})")
    parts += [FLAMES, "## How each is used", contestants_table(results)]
    return {PAGE: "\n\n".join(parts) + "\n"} | found


def preface(data: dict[str, Any]) -> dict[str, str]:
    machine, results = data["machine"], data["results"]
    dates = sorted({each["date"] for each in results})
    # Many threads are a load by themselves, on what takes turns with them, too.
    loads = [each["load"] for each in results if CASE[each["case"]].kind != "flows"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    missing = ", ".join(sorted(data["missing"])) or "none"
    return {
        **{
            name: str(machine[name])
            for name in ("processor", "cores", "memory", "system", "python")
        },
        "dates": dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        "load": f"{min(loads):g} to {max(loads):g}",
        "busy": BUSY if max(loads) > ALONE * machine["cores"] else "",
        "runs": str(max(len(each["runs"]) for each in results)),
        "versions": versions,
        "missing": missing,
    }


def of(results: Results, case: str, contestant: str, name: str) -> Figure | None:
    """Return a figure of a contestant in a case, None where it was not measured."""
    values = values_of(results, case, contestant, name)
    return figure(values) if values else None


def values_of(results: Results, case: str, contestant: str, name: str) -> list[float]:
    """Return a figure of each run."""
    runs = runs_of(results, case, contestant)
    if name == "beyond":
        return beyond(runs, runs_of(results, TENTH.get(case, ""), contestant))
    return [run[name] for run in runs if name in run]


def runs_of(results: Results, case: str, contestant: str) -> list[Figures]:
    for each in results:
        if (each["case"], each["contestant"]) == (case, contestant):
            return list(each["runs"])
    return []


def beyond(runs: list[Figures], short: list[Figures]) -> list[float]:
    """Return how many packets a second there are of those that *short* runs do not have.

    The runs of one round are compared: the machine is as fast in both.
    """
    return [
        (each["count"] - tenth["count"])
        / (each["count"] / each["rate"] - tenth["count"] / tenth["rate"])
        for each, tenth in zip(runs, short, strict=False)
    ]


def titles(results: Results) -> dict[str, str]:
    return {each["contestant"]: each["title"] for each in results}


def ranked(section: Section, results: Results) -> list[str]:
    """Return who has a figure in the section, the best of its first column first."""
    case, name = section.columns[0]
    found = []
    for contestant in titles(results):
        figures = [of(results, *each[:1], contestant, each[1]) for each in section.columns]
        if any(figures):
            first = of(results, case, contestant, name)
            worth = (first.median if first else 0.0) * (-1 if name in BELOW else 1)
            found.append((first is None, -worth, contestant))
    return [contestant for _, _, contestant in sorted(found)]


def table_of(section: Section, results: Results) -> str:
    known = titles(results)
    columns = [
        each
        for each in section.columns
        if any(
            of(results, each[0], contestant, each[1]) for contestant in known if contestant != BASE
        )
    ]
    rows = [
        [bold(known[name], name), *(cell(of(results, case, name, what)) for case, what in columns)]
        for name in ranked(section, results)
    ]
    heads = [HEADINGS[what].format(CASE[case].title) for case, what in columns]
    return markdown(["", *heads], rows) if columns and rows else ""


def bold(title: str, name: str) -> str:
    return f"**{title}**" if name in OURS else title


def cell(found: Figure | None) -> str:
    if found is None:
        return ""
    low, high = number(found.min), number(found.max)
    return number(found.median) if low == high else f"{number(found.median)} ({low} to {high})"


def number(value: float) -> str:
    """Write two digits of what is small, and whole numbers of what is not."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"  # noqa: PLR2004 - two digits


def markdown(heads: list[str], rows: Iterable[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def drawing(section: Section, results: Results) -> str:
    known = titles(results)
    if section.picture == "bars":
        case, what = section.columns[0]
        rows = [
            (known[name], found.median, name in OURS)
            for name in ranked(section, results)
            if (found := of(results, case, name, what))
        ]
        return svg.bars(rows) if rows else ""
    curves = {}
    for name in ranked(section, results) if section.picture else ():
        points = [
            (size, found.median)
            for case, what in section.columns
            if (size := size_of(case)) and (found := of(results, case, name, what))
        ]
        if len(points) > 1:
            curves[known[name]] = points
    return svg.lines(curves, section.title, section.columns[0][1]) if curves else ""


def size_of(case: str) -> float:
    """Return the number in a case's name, which tells it from its neighbours."""
    return float(case.rpartition("-")[2])


def promises(results: Results) -> str:
    rows = []
    for demand in DEMANDS:
        if found := of_demand(results, demand):
            met = found.median <= demand.bound if demand.below else found.median >= demand.bound
            title = titles(results)[demand.contestant]
            what = f"{CASE[demand.case].title}: {ASKED.get(demand.figure, demand.figure)}"
            rows.append([what, title, demand.text, cell(found), "yes" if met else "no"])
    heads = ["what", "who", "aim", "measured", "met"]
    return f"## What we aim at\n\n{markdown(heads, rows)}" if rows else ""


def of_demand(results: Results, demand: Demand) -> Figure | None:
    """Return what was measured of a demand, in multiples of what it is compared with."""
    mine = of(results, demand.case, demand.contestant, demand.figure)
    if not (demand.rival or demand.than) or mine is None:
        return mine
    if demand.than:
        ratios = in_turns(results, demand)
        return figure(ratios) if ratios else None
    ratio = f"{demand.figure}_ratio"
    if demand.rival == BASE:
        return of(results, demand.case, demand.contestant, ratio)
    ours = of(results, demand.case, demand.contestant, ratio)
    theirs = of(results, demand.case, demand.rival, ratio)
    if ours is None or theirs is None:
        return None
    return Figure(ours.median / theirs.median, ours.min / theirs.max, ours.max / theirs.min)


def in_turns(results: Results, demand: Demand) -> list[float]:
    """Return the ratio of each round's run to that of the other case: they took turns."""
    ours, others = (
        values_of(results, case, demand.contestant, demand.figure)
        for case in (demand.case, demand.than)
    )
    return [mine / other for mine, other in zip(ours, others, strict=False)]


def contestants_table(results: Results) -> str:
    hows = {each["title"]: each["how"] for each in results}
    return markdown(["", "here"], [[title, how] for title, how in sorted(hows.items())])


def listing(results: Results) -> str:
    """Return the main figures as plain lines, for a terminal."""
    lines = []
    for each in results:
        names = [
            name
            for name in ("rate_ratio", "p50_ratio", "rate", "cpu", "p50")
            if name in each["runs"][0]
        ]
        found = (f"{name} {cell(figure(run[name] for run in each['runs']))}" for name in names)
        lines.append(f"{each['case']:12} {each['contestant']:20} {'  '.join(found)}")
    return "\n".join([*lines, promises(results)])
