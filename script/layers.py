#!/usr/bin/env python3
"""Read the layering from the imports in the code, check it and draw it.

Without arguments it prints the drawing; with --write it puts it into CONTRIBUTING.md.
"""

import ast
import sys
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"pyf.station": ROOT / "pyf_station", "pyf.transport": ROOT / "transport"}
DRAWING_IN = ROOT / "CONTRIBUTING.md"
BEGIN = "<!-- drawn by script/layers.py --write -->"
END = "<!-- end of drawing -->"


class Room(NamedTuple):
    title: str
    modules: tuple[str, ...]
    alone: bool = False  # no module of the room imports another one of it


# From the top down. A module imports from its own room and from those below, never from above.
ROOMS = (
    Room(
        "people start here",
        (
            "pyf.station.__main__",
            "pyf.station.cli",
            "pyf.station.cli.app",
            "pyf.station.cli.serving",
            "pyf.station.cli.supervisor",
            "pyf.station.cli.running",
            "pyf.station.cli.tap",
            "pyf.station.cli.sending",
            "pyf.station.cli.exchange",
            "pyf.station.cli.ping",
            "pyf.station.cli.meter",
            "pyf.station.cli.source",
            "pyf.station.cli.access",
            "pyf.station.cli.common",
            "pyf.station.service",
            "pyf.station.status",
            "pyf.station.statuspage",
            "pyf.station.metrics",
            "pyf.station.tracing",
            "pyf.station.files",
            "pyf.station.ndjson",
            "pyf.station.progress",
            "pyf.station.embed",
            "pyf.station.testing",
            "pyf.station.testing.fixtures",
            "pyf.station.testing.promises",
            "pyf.station.testing.bench",
            "pyf.station.testing.scripts",
            "pyf.station.testing.awaited",
            "pyf.station.testing.chaos",
            "pyf.station.testing.memory",
        ),
    ),
    Room(
        "shells",
        ("pyf.station.server", "pyf.station.client", "pyf.station.aio", "pyf.station.tx"),
        alone=True,
    ),
    Room(
        "what a handler is and is given; what clients stand on",
        (
            "pyf.station.handlers",
            "pyf.station.flow",
            "pyf.station.bridge",
            "pyf.station.carrier",
            "pyf.station.watch",
            "pyf.station.auth",
            "pyf.station.blame",
            "pyf.station.scarcity",
            "pyf.station.sessions",
            "pyf.station.credentials",
            "pyf.station.piped",
            "pyf.station.turned",
            "pyf.station.intercepted",
            "pyf.station.intercept",
            "pyf.station.observe",
            "pyf.station.inbox",
            "pyf.station.session",
            "pyf.station.outbox",
            "pyf.station.direct",
            "pyf.station.turn",
            "pyf.station.store",
            "pyf.station.conversation",
            "pyf.station.coclient",
            "pyf.station.coflow",
            "pyf.station.corun",
            "pyf.station.trunk",
            "pyf.station.pump",
            "pyf.station.joint",
            "pyf.station.multiplex",
            "pyf.station.stream",
            "pyf.station.pace",
            "pyf.station.loop",
            "pyf.station.base",
            "pyf.station.listeners",
            "pyf.station.flattened",
            "pyf.station.address",
            "pyf.station.revival",
            "pyf.station.resuming",
            "pyf.station.counts",
            "pyf.station.backoff",
            "pyf.station.link",
            "pyf.station.keeper",
            "pyf.station.nursery",
            "pyf.station.line",
            "pyf.station.relay",
            "pyf.station.forks",
            "pyf.station.outcome",
            "pyf.station.wire",
            "pyf.station.sockets",
            "pyf.station.tls",
            "pyf.station.burst",
            "pyf.station.length",
            "pyf.station.workers",
        ),
    ),
    Room(
        "one machine for both roles; a flow in a file",
        (
            "pyf.transport.record",
            "pyf.transport.patience",
            "pyf.transport.connection",
            "pyf.transport.continuation",
            "pyf.transport.machine",
            "pyf.transport.fastpath",
        ),
    ),
    Room(
        "rules",
        (
            "pyf.transport.payloads",
            "pyf.transport.states",
            "pyf.transport.window",
            "pyf.transport.budget",
            "pyf.transport.events",
            "pyf.transport.liveness",
            "pyf.transport.resume",
        ),
    ),
    Room(
        "bytes, frames, values",
        (
            "pyf.transport.frames",
            "pyf.transport.speed",
            "pyf.transport.intake",
            "pyf.transport.codec",
            "pyf.transport.pieces",
            "pyf.transport.census",
            "pyf.transport.packet",
        ),
    ),
    Room("ground", ("pyf.transport.compiled", "pyf.transport.limits", "pyf.transport.errors")),
)

# What `transport` may not import: it never waits, and never asks what time it is.
IMPURE = {
    *("asyncio", "select", "selectors", "signal", "socket", "socketserver", "ssl", "twisted"),
    *("_thread", "concurrent", "multiprocessing", "queue", "subprocess", "threading"),
    *("sched", "tgscheduler", "time"),
}


def sources(folders: dict[str, Path]) -> dict[str, str]:
    """Text of each module by its import name; a package's own `__init__` has the package's."""
    found = {}
    for package, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path.read_text(encoding="utf-8")
    return found


def imports(text: str, known: Collection[str]) -> set[tuple[str, str]]:
    """Each import anywhere in it, as module and name ("" for the module as a whole).

    What stands in a function or under TYPE_CHECKING counts as well.
    """
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            for alias in node.names:
                module = f"{source}.{alias.name}"
                found.add((module, "") if module in known else (source, alias.name))
    return found


def graph(modules: dict[str, str]) -> dict[str, set[str]]:
    """Which of *modules* each of them imports; a name from a package counts as from its source."""
    found = {name: imports(text, modules) for name, text in modules.items()}
    home = {(package, name): source for package in FOLDERS for source, name in found[package]}
    return {
        module: {home.get(item, item[0]) for item in found[module]} & modules.keys() - {module}
        for module in modules
    }


def problems(modules: dict[str, str]) -> list[str]:
    """A sentence for each import that breaks the layering."""
    room_of = {module: number for number, room in enumerate(ROOMS) for module in room.modules}
    arrows = {name: others for name, others in graph(modules).items() if name not in FOLDERS}
    found = []
    for name, text in sorted(modules.items()):
        package = ".".join(name.split(".")[:2])
        named = {module for module, _ in imports(text, modules)}
        if package == "pyf.transport":
            found += [
                f"{name} imports {other}: transport holds no I/O, no thread and no clock"
                for other in sorted(named)
                if other.split(".")[0] in IMPURE or other.startswith("pyf.station")
            ]
        if name not in arrows:
            continue  # a package only collects names
        if package in named:
            found.append(f"{name} imports {package}, which imports {name}: name the module instead")
        if name not in room_of:
            found.append(f"{name} has no room: give it one in script/layers.py")
            continue
        for other in sorted(arrows[name] & room_of.keys()):
            if room_of[other] < room_of[name]:
                found.append(f"{name} imports {other}: arrows point only down")
            if room_of[other] == room_of[name] and ROOMS[room_of[name]].alone:
                found.append(f"{name} imports {other}: {ROOMS[room_of[name]].title} stand alone")
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        found.append(f"a circle of imports: {' -> '.join(error.args[1])}")
    return found


def reachable(arrows: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for other in arrows[todo.pop()] - seen:
            seen.add(other)
            todo.append(other)
    return seen


def drawing(modules: dict[str, str]) -> str:
    """Mermaid flowchart of the rooms; an arrow that others already imply is left out."""
    arrows = {name: others - FOLDERS.keys() for name, others in graph(modules).items()}
    lines = ["```mermaid", "flowchart TD"]
    for number, room in enumerate(ROOMS):
        if present := [name for name in room.modules if name in modules]:
            lines.append(f'    subgraph room{number}["{room.title}"]')
            lines += [f'        {box(name)}["{file_of(name)}"]' for name in present]
            lines.append("    end")
    for name, others in sorted(arrows.items()):
        if name not in FOLDERS:
            implied = set[str]().union(*(reachable(arrows, other) for other in others))
            lines += [f"    {box(name)} --> {box(other)}" for other in sorted(others - implied)]
    return "\n".join([*lines, "```"])


def box(module: str) -> str:
    return module.removeprefix("pyf.").replace(".", "_")


def file_of(module: str) -> str:
    namespace, package, rest = module.split(".", 2)
    folder = FOLDERS[f"{namespace}.{package}"]
    path = folder / rest.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.relative_to(folder.parent).as_posix()


def replaced(text: str, new: str) -> str:
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def main() -> int:
    modules = sources(FOLDERS)
    if sys.argv[1:] == ["--write"]:
        text = DRAWING_IN.read_text(encoding="utf-8")
        DRAWING_IN.write_text(replaced(text, drawing(modules)), encoding="utf-8")
    else:
        print(drawing(modules))
    for problem in problems(modules):
        print(problem, file=sys.stderr)
    return bool(problems(modules))


if __name__ == "__main__":
    sys.exit(main())
