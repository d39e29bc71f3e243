"""The documentation tells the truth: its code runs, its output comes, its tables are complete.

How the code of README.md and docs/ is run, one process for each page:

- A ```python block that calls ``reactor.run()`` is a server: it runs as a process of its own until
  the page ends, or the next server takes its place. A free port stands in for 8000 on the page.
- All other ```python blocks of a page run in order, in one namespace.
- A ```text block is what the ```python block just before it prints; ``...`` stands for anything.
- ``<!-- the servers log 2 errors -->`` says how many errors the page causes on purpose.
"""

import ast
import dataclasses
import doctest
import importlib
import inspect
import io
import pkgutil
import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import pyf.station
import pyf.transport
from pyf.station import ConnectionLost, Limits, StationError
from pyf.station.listeners import LISTENER_EVENTS
from pyf.station.observe import NAMES
from pyf.station.server import (
    MAX_CLIENTS,
    MAX_CLIENTS_PER_ADDRESS,
    MAX_COROUTINES,
    MAX_THREADS,
    STOP_GRACE,
)
from pyf.transport.limits import MAX_REPLIES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
]
SECONDS = 30
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LOGGED = re.compile(r"<!-- the servers? logs? (\d+) errors? -->")

SAY_PORT = """
from twisted.internet import reactor
reactor.callWhenRunning(lambda: print(*(
    reader.getHost().port for reader in reactor.getReaders() if hasattr(reader, "getHost")
), flush=True))
"""


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 2)
        for match in FENCE.finditer(text)
    ]


def title(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# The runner: python tests/test_docs.py PAGE


class Server:
    """
    A server block, as a process.
    """

    def __init__(self, page: Path, block: Block, port: str) -> None:
        lines = "\n" * (block.line - 1) + block.text.replace("8000", port)
        code = f"{SAY_PORT}\nexec(compile({lines!r}, {str(page)!r}, 'exec'))"
        command = [sys.executable, "-u", *warnings(), "-c", code]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        assert self.popen.stdout is not None
        self.port = self.popen.stdout.readline().strip()
        assert self.port, f"the server in line {block.line} did not start"

    def stop(self) -> str:
        self.popen.terminate()
        output, _ = self.popen.communicate(timeout=SECONDS)
        return output


def warnings() -> list[str]:
    ignored = ("setDaemon", "Passing pyOpenSSL")
    return ["-W", "error", *(f"-Wignore:{text}:DeprecationWarning" for text in ignored)]


def check_output(expected: str, actual: str, block: Block) -> None:
    flags = doctest.ELLIPSIS | doctest.REPORT_NDIFF
    checker = doctest.OutputChecker()
    if not checker.check_output(expected, actual, flags):
        example = doctest.Example("", expected)
        difference = checker.output_difference(example, actual, flags)
        raise AssertionError(f"the block in line {block.line} does not print that:\n{difference}")


@contextmanager
def serving(page: Path, block: Block, port: str, expected: str | None) -> Generator[str]:
    server = Server(page, block, port)
    try:
        yield server.port
    finally:
        output = server.stop()
    if expected is not None:
        check_output(expected, output, block)


def run_page(page: Path) -> None:
    # What is read from a page counts with its own line numbers.
    namespace: dict[str, Any] = {"__name__": "__main__"}
    port = "0"  # any free one, which the servers after the first one use again
    found = blocks(page)
    with ExitStack() as stack:
        for number, block in enumerate(found):
            following = found[number + 1] if number + 1 < len(found) else block
            expected = following.text if following.language == "text" else None
            if block.language != "python":
                continue
            if "reactor.run()" in block.text:
                stack.close()
                port = stack.enter_context(serving(page, block, port, expected))
                continue
            code = "\n" * (block.line - 1) + block.text.replace("8000", port)
            with redirect_stdout(io.StringIO()) as output:
                exec(compile(code, str(page), "exec"), namespace)
            if expected is not None:
                check_output(expected, output.getvalue(), block)


def with_python(page: Path) -> bool:
    return any(block.language == "python" for block in blocks(page))


@pytest.mark.parametrize("page", [*filter(with_python, PAGES)], ids=title)
def test_the_code_of_each_page_runs(page: Path, tmp_path: Path) -> None:
    """
    Every block of Python on the page runs, prints what the page says, and logs no more errors.
    """
    done = subprocess.run(
        [sys.executable, *warnings(), str(Path(__file__).resolve()), str(page)],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    expected = sum(map(int, LOGGED.findall(page.read_text(encoding="utf-8"))))
    assert done.stderr.count("Traceback") == expected, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_the_commands_of_each_page_exist(page: Path) -> None:
    """
    A script or example that a page names exists; a file of the project that it links to, too.
    """
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\b((?:script|examples)/[\w./-]*\w)", text))
    linked = re.findall(r"\]\((?!\w+:|#)([^)#]+)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    missing += [name for name in linked if not (page.parent / name).exists()]
    assert not missing


def test_every_block_says_what_it_is() -> None:
    """
    A fenced block is Python, which is run, or says that it is something else.
    """
    known = {"python", "text", "console", "{toctree}", "{eval-rst}", "{layers}"}
    found = [
        (title(page), block.line)
        for page in PAGES
        for block in blocks(page)
        if block.language not in known
    ]
    assert not found


# The reference


def reference() -> str:
    pages = sorted((DOCS / "reference").glob("*.md"))
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


PRIVATE = {
    "FlowServer": {
        *("reactor", "clock", "start", "call_in_thread"),
        *("came", "left", "has_room_for", "refuses_resume"),
    },
    "Observed": {"clock", "connected", "disconnected", "opened", "refused", "returned"},
    "LiveFlow": {"look"},
    "Station": {"abandon"},
    "Bench": {"client", "cut_client", "most"},
    "pyf.transport.speed": {
        *("Done", "Intake", "Speaker", "decode", "decode_maps", "decode_quickly", "encode_each"),
        *("decode_fields", "encode_pieces", "frozen", "packets_in", "unroll"),
    },
}
"""What has no underscore and is for nobody but us: what other modules call."""

DIRECTIVE = re.compile(r"^\.\. auto(\w+):: (pyf[\w.]+).*\n((?:   :.*\n)*)", re.MULTILINE)


def public_modules() -> Iterator[ModuleType]:
    """
    The modules that say what they export: those are for users, all others for us.
    """
    for package in (pyf.transport, pyf.station):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                module = importlib.import_module(found.name)
                if hasattr(module, "__all__"):
                    yield module


MODULES = list(public_modules())


def find(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def documented() -> Iterator[tuple[Any, set[str] | None]]:
    """
    Everything that the reference describes, and which members of it; None stands for all.
    """
    for kind, path, options in DIRECTIVE.findall(reference()):
        members = re.search(r":members:(.*)", options)
        names = set(members[1].replace(",", " ").split()) if members else set()
        every = None if members and not names else names
        if kind == "module":
            module = importlib.import_module(path)
            listed = vars(module) if every is None else names
            yield from ((getattr(module, name), None) for name in listed)
        else:
            yield find(path), every


def described_values() -> Iterator[str]:
    """
    Names of what is assigned at the top of a module, and has a docstring behind it.
    """
    for package in (pyf.transport, pyf.station):
        for path in Path(package.__path__[0]).rglob("*.py"):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            for node, behind in pairwise(body):
                match node, behind:
                    case (
                        ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)),
                        ast.Expr(ast.Constant(str())),
                    ):
                        yield name
                    case _:
                        pass


DESCRIBED = set(described_values())


def is_described(name: str, value: Any) -> bool:
    """
    A class or a function has a docstring of its own, any other value one behind it.
    """
    if inspect.isclass(value) or inspect.isroutine(value):
        return bool(vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__)
    return name in DESCRIBED


@pytest.mark.parametrize("module", MODULES, ids=lambda each: each.__name__)
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    """
    What a module exports is in the reference, with a docstring: it, or the same by another name.
    """
    known = [value for value, _ in documented()]
    missing = [
        name
        for name in set(module.__all__) - PRIVATE.get(module.__name__, set())
        if not any(getattr(module, name) is value for value in known)
        or not is_described(name, getattr(module, name))
    ]
    assert missing == []


def classes() -> dict[type, set[str] | None]:
    return {value: members for value, members in documented() if inspect.isclass(value)}


@pytest.mark.parametrize("kind", classes(), ids=lambda each: each.__qualname__)
def test_every_public_method_is_in_the_reference(kind: type) -> None:
    """
    So are the methods and properties of an exported class, there or with the class it extends; but
    for those that Twisted calls, in its spelling.
    """
    known = classes()
    ours = [each for each in kind.__mro__ if each.__module__.startswith("pyf.")]
    if any(known.get(each, set()) is None for each in ours):
        return
    listed = set().union(*(known.get(each) or set() for each in ours))
    found = {
        name
        for each in ours
        for name, value in vars(each).items()
        if not name.startswith("_") and name.islower()
        if inspect.isroutine(value) or isinstance(value, property)
    }
    assert found - listed - PRIVATE.get(kind.__name__, set()) == set()


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """
    What the Python on a page, or of an example, takes from our modules.
    """
    code = [each.text for each in blocks(path) if each.language == "python"]
    if path.suffix == ".py":
        code = [path.read_text(encoding="utf-8")]
    for node in ast.walk(ast.parse("\n".join(code))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pyf."):
            yield from ((str(node.module), alias.name) for alias in node.names)


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=title)
def test_what_the_pages_import_is_public(path: Path) -> None:
    """
    No page and no example shows a name that is not exported, or a module that exports nothing.
    """
    public = {module.__name__: module for module in MODULES}
    private = [
        (module, name)
        for module, name in imported(path)
        if name not in getattr(public.get(module), "__all__", ())
        and f"{module}.{name}" not in public
    ]
    assert private == []


def all_errors(root: type[StationError] = StationError) -> Iterator[type[StationError]]:
    yield root
    for error in root.__subclasses__():
        if error.__module__.startswith("pyf."):
            yield from all_errors(error)


@pytest.mark.parametrize("error", sorted(all_errors(), key=str), ids=lambda error: error.__name__)
def test_every_error_is_in_the_reference_and_says_what_to_do(error: type[StationError]) -> None:
    """
    An error is in the reference; one that is raised as such is also in the guide to errors.
    """
    assert f"autoexception:: pyf.station.{error.__name__}\n" in reference()
    if not error.__subclasses__() or error is ConnectionLost:
        guide = (DOCS / "howto" / "errors.md").read_text(encoding="utf-8")
        assert f"`{error.__name__}`" in guide


def test_every_limit_is_in_the_table() -> None:
    """
    The table has all limits in their order, with the defaults that they have.
    """
    text = (DOCS / "reference" / "limits.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.MULTILINE)
    assert rows == [(field.name, str(field.default)) for field in dataclasses.fields(Limits)]


def test_every_event_is_in_the_table() -> None:
    """
    The guide has all events of a server in their order, with the words of the source.
    """
    text = (DOCS / "howto" / "observe.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+_\w+)` \| (.+?) \|", text, re.MULTILINE) == [*NAMES.items()]


def test_defaults_are_those_that_the_pages_name() -> None:
    """
    The pages that name a default in their text name the real one.
    """
    text = (DOCS / "howto" / "deploy.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (.+?) \| (\d+) \|", text, re.MULTILINE))
    for name, value in re.findall(r"`(\w+)`,? \(?([\d.]+)", text):
        if value and hasattr(Limits(), name):
            assert getattr(Limits(), name) == float(value)
    resume = (DOCS / "resume.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(pyf.station.ResumePolicy):
        if field.name != "store":
            assert f"| `{field.name}` | {field.default:.10g} |" in resume.replace(",", "")
    assert Limits().drain_grace == 10
    assert "`Limits.drain_grace` (10 s)" in text
    assert MAX_REPLIES == 4 * 1024**2
    assert "| 4 MiB |" in text
    assert list(map(int, table.values())) == [
        MAX_THREADS,
        MAX_COROUTINES,
        MAX_CLIENTS,
        MAX_CLIENTS_PER_ADDRESS,
    ]
    assert Limits().window_bytes == 4 * 1024**2
    assert "`Limits.window_bytes` (4 MiB)" in text
    assert Limits().max_packet == 16 * 1024**2
    assert "`Limits.max_packet` (16 MiB)" in text
    assert Limits().window_packets == 32768
    assert "4 MiB or 32768 packets" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "32,768 packets or 4 MiB" in (DOCS / "window.svg").read_text(encoding="utf-8")
    assert STOP_GRACE == 1.5
    assert "Handlers have\n1.5 seconds" in text


def test_the_table_of_the_clients_leaves_nothing_open() -> None:
    """
    Each row of the table says something of each client, and a "no" says why.
    """
    text = (DOCS / "reference" / "clients.md").read_text(encoding="utf-8")
    rows = [row.strip("|").split("|") for row in text.splitlines() if row.startswith("|")][2:]
    cells = [cell.strip() for row in rows for cell in row]
    assert {len(row) for row in rows} == {4}
    assert all(cells)
    unexplained = [row for row in rows if "no" in (cell.strip() for cell in row)]
    assert [row[0].strip() for row in unexplained] == ["imports Twisted"]


def test_every_event_of_listeners_is_explained() -> None:
    """
    The guide to messages explains each event for which a listener can be added.
    """
    text = (DOCS / "howto" / "messages.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == LISTENER_EVENTS


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
