"""The rooms of the house: which module may import which, and that the drawing is true."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_layers():
    spec = importlib.util.spec_from_file_location("layers", ROOT / "script" / "layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layers = load_layers()


@pytest.fixture(scope="module")
def modules():
    return layers.sources(layers.FOLDERS)


def test_the_code_keeps_the_layering(modules):
    """
    Arrows point only down, shells stand alone, transport is pure, and nothing goes in circles.
    """
    assert layers.problems(modules) == []


def test_the_drawing_is_current(modules):
    """
    CONTRIBUTING.md shows the imports as they are; `script/layers.py --write` puts them there.
    """
    text = layers.DRAWING_IN.read_text(encoding="utf-8")
    assert layers.replaced(text, layers.drawing(modules)) == text


@pytest.mark.parametrize(
    ("module", "line", "problem"),
    [
        ("pyf.transport.window", "import threading", "no I/O, no thread and no clock"),
        ("pyf.transport.window", "def f():\n    from time import monotonic", "no clock"),
        ("pyf.transport.window", "import pyf.station.client", "no I/O"),
        ("pyf.transport.errors", "from pyf.transport.frames import Frame", "only down"),
        ("pyf.transport.errors", "from pyf.transport import frames", "only down"),
        ("pyf.transport.errors", "import pyf.transport", "name the module instead"),
        ("pyf.station.flow", "from pyf.station.server import FlowServer", "only down"),
        ("pyf.station.server", "import pyf.station.client", "shells stand alone"),
        ("pyf.station.aio", "from pyf.station.tx import connect", "shells stand alone"),
        ("pyf.station.unheard_of", "", "has no room"),
    ],
)
def test_a_breach_is_found(module, line, problem):
    """
    Each rule finds the import that breaks it.
    """
    known = {name: "" for room in layers.ROOMS for name in room.modules}
    known |= {"pyf.station": "", "pyf.transport": ""}
    assert layers.problems(known) == []
    assert problem in "\n".join(layers.problems(known | {module: line}))


def test_a_circle_is_found():
    """
    Two modules of one room may not import each other.
    """
    circle = {
        "pyf.transport": "",
        "pyf.station": "",
        "pyf.transport.frames": "import pyf.transport.codec",
        "pyf.transport.codec": "import pyf.transport.frames",
    }
    assert "a circle of imports" in layers.problems(circle)[0]


def test_a_name_from_a_package_counts_as_from_its_source():
    """
    `from pyf.transport import Packet` is an arrow to the module that defines Packet.
    """
    arrows = layers.graph(
        {
            "pyf.transport": "from pyf.transport.packet import Packet",
            "pyf.transport.packet": "",
            "pyf.station": "",
            "pyf.station.client": "from pyf.transport import Packet",
        }
    )
    assert arrows["pyf.station.client"] == {"pyf.transport.packet"}


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("pyf.transport", ["asyncio", "socket", "threading", "twisted"]),
        ("pyf.station", ["twisted.internet.reactor"]),
    ],
)
def test_importing_brings_nothing_that_is_not_wanted(package, absent):
    """
    At run time transport is as pure as it looks, and nobody's reactor is chosen by an import.
    """
    program = (
        "import importlib, pkgutil, sys\n"
        f"package = importlib.import_module({package!r})\n"
        "for each in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    if not each.name.endswith('__main__'):\n"
        "        importlib.import_module(each.name)\n"
        f"print([name for name in {absent!r} if name in sys.modules])\n"
    )
    # Measuring coverage in the child would import more than the package does.
    environment = {key: value for key, value in os.environ.items() if "COVERAGE" not in key}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == "[]"
